"""Every architecture that tgi computes, one file each, named as `model_type` in config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tgi.errors import ModelError
from tgi.layers.loader import Loader
from tgi.layers.model import CausalLM, ModelConfig
from tgi.models import gpt2, llama, qwen2, qwen3

_MODELS: dict[str, Callable[[ModelConfig, Loader], CausalLM]] = {
    "gpt2": gpt2.Model,
    "llama": llama.Model,
    "qwen2": qwen2.Model,
    "qwen3": qwen3.Model,
}
# Other names of exactly the same mathematics.
ALIASES = {"mistral": "llama"}
SUPPORTED = tuple(sorted([*_MODELS, *ALIASES]))


def load(config: dict[str, Any], loader: Loader) -> CausalLM:
    """Build the model that config.json describes.

    Raises: ModelError (18) for a model type, a quantization or a value that is not supported, (16) for weights that
    are missing or contradict config.json.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in SUPPORTED:
        raise ModelError(f"model type `{model_type}` is not supported", exit_code=18,
                         hint=f"choose a model of a supported type: {', '.join(SUPPORTED)}")  # fmt: skip
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        raise ModelError(f"weights quantized with `{method}` are not supported yet",
                         hint="use the original weights, or a .gguf file of the model", exit_code=18)  # fmt: skip
    model = _MODELS[ALIASES.get(model_type, model_type)](ModelConfig.from_json(config), loader)
    loader.report_unread()
    return model
