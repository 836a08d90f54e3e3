"""GGUF files seen as transformers' checkpoints: config.json keys from the metadata, tensors under transformers' names.

Two facts of the format reach the model as keys that no config.json has:

- `rope_interleaved: true` (llama): the rows of q and k are stored so that rotary pairs are neighbours (2i, 2i+1)
  instead of halves (i, i + d/2). The rows stay as they lie in the file, and the model rotates neighbours.
- `linear_layout: "out_in"` (gpt2): matrices are stored as [outputs, inputs], where transformers' gpt2 has
  [inputs, outputs].

Source: the conversion scripts of llama.cpp, and the tensor tables of the `gguf` package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tgi.checkpoint.blocks import dequantize
from tgi.checkpoint.gguf import GgufFile
from tgi.checkpoint.mapping import corrupt
from tgi.checkpoint.tensors import RawTensor, missing_tensor
from tgi.errors import ModelError

ROPE_FACTORS = "rope_freqs.weight"

_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LLAMA_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2_LAYER_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class _Architecture:
    """How one architecture's metadata and tensors translate."""

    config: Callable[[GgufFile], dict[str, Any]]
    names: dict[str, str]
    layer_names: dict[str, str]
    layers: str  # transformers' name of the list of layers


class GgufCheckpoint:
    """A GGUF file under transformers' names. Raises: ModelError (exit 18) for an architecture that is not supported."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        name = architecture(file)
        if file.metadata.get("split.count", 1) not in (0, 1):
            raise ModelError(f"`{file.path}` is one part of a model in several files, which is not supported",
                             hint="merge the parts with `llama-gguf-split --merge` first", exit_code=18)  # fmt: skip
        self._stored_names = {_translate(stored, _ARCHITECTURES[name]): stored for stored in file.names()}
        self.config: dict[str, Any] = _ARCHITECTURES[name].config(file)

    def names(self) -> frozenset[str]:
        """All tensor names, as the transformers library writes them."""
        return frozenset(self._stored_names)

    def tensor(self, name: str) -> RawTensor:
        """One tensor. Raises: ModelError naming what is missing and the nearest names that exist."""
        if name not in self._stored_names:
            raise missing_tensor(self._file.path, name, self._stored_names)
        stored = self._file.tensor(self._stored_names[name])
        return RawTensor(name, stored.layout, stored.shape, stored.data)


def architecture(file: GgufFile) -> str:
    """The file's architecture. Raises: ModelError (exit 18) for one that is not supported."""
    name = file.get("general.architecture", str)
    if name not in _ARCHITECTURES:
        raise ModelError(f"`{file.path}` holds a model of architecture `{name}`, which is not supported in GGUF files",
                         hint=f"supported: {', '.join(_ARCHITECTURES)}", exit_code=18)  # fmt: skip
    return name


def _translate(stored: str, names: _Architecture) -> str:
    """transformers' name of a tensor; a tensor it does not know keeps the name it is stored under."""
    match = _TENSOR.fullmatch(stored)
    if match is None:
        return stored
    layer, role, kind = match.groups()
    if layer is None:
        return f"{names.names[role]}.{kind}" if role in names.names else stored
    return f"{names.layers}.{layer}.{names.layer_names[role]}.{kind}" if role in names.layer_names else stored


def _common_config(file: GgufFile, name: str) -> dict[str, Any]:
    embedding = file.tensor("token_embd.weight")
    if len(embedding.shape) != 2:
        raise corrupt(file.path, f"`token_embd.weight` has shape {embedding.shape}")
    config: dict[str, Any] = {
        "model_type": name,
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.names(),
    }
    for key in ("bos", "eos", "padding"):
        token_id = f"tokenizer.ggml.{key}_token_id"
        if token_id in file.metadata:
            config[f"{'pad' if key == 'padding' else key}_token_id"] = file.get(token_id, int)
    return config


def _decoder_config(file: GgufFile, name: str) -> dict[str, Any]:
    """The keys that llama, qwen2 and qwen3 share."""
    if file.metadata.get(f"{name}.expert_count", 0):
        raise ModelError(f"`{file.path}` is a mixture of experts, which is not supported in GGUF files",
                         hint="serve the model's safetensors, if its type is supported", exit_code=18)  # fmt: skip
    heads = _positive(file, f"{name}.attention.head_count")
    hidden = _positive(file, f"{name}.embedding_length")
    head_dim = _positive(file, f"{name}.attention.key_length", hidden // heads)
    if file.metadata.get(f"{name}.attention.value_length", head_dim) != head_dim:
        raise ModelError(f"`{file.path}` has values of another length than keys, which is not supported",
                         hint="use another model", exit_code=18)  # fmt: skip
    return _common_config(file, name) | {
        "hidden_size": hidden,
        "intermediate_size": _positive(file, f"{name}.feed_forward_length"),
        "num_hidden_layers": _positive(file, f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _positive(file, f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": _positive(file, f"{name}.context_length"),
        "rms_norm_eps": file.get(f"{name}.attention.layer_norm_rms_epsilon", float),
        "hidden_act": "silu",
        "rope_parameters": _rope_parameters(file, name, head_dim),
    }


def _llama_config(file: GgufFile) -> dict[str, Any]:
    return _decoder_config(file, "llama") | {
        "rope_interleaved": True,
        "attention_bias": "blk.0.attn_q.bias" in file.names(),
        "mlp_bias": "blk.0.ffn_up.bias" in file.names(),
    }


def _qwen2_config(file: GgufFile) -> dict[str, Any]:
    return _decoder_config(file, "qwen2") | {"use_sliding_window": False}


def _qwen3_config(file: GgufFile) -> dict[str, Any]:
    return _decoder_config(file, "qwen3") | {
        "use_sliding_window": False,
        "attention_bias": "blk.0.attn_q.bias" in file.names(),
    }


def _gpt2_config(file: GgufFile) -> dict[str, Any]:
    positions = _positive(file, "gpt2.context_length")
    return _common_config(file, "gpt2") | {
        "n_embd": _positive(file, "gpt2.embedding_length"),
        "n_layer": _positive(file, "gpt2.block_count"),
        "n_head": _positive(file, "gpt2.attention.head_count"),
        "n_inner": _positive(file, "gpt2.feed_forward_length"),
        "n_positions": positions,
        "n_ctx": positions,
        "layer_norm_epsilon": file.get("gpt2.attention.layer_norm_epsilon", float),
        "activation_function": "gelu_new",
        "linear_layout": "out_in",
    }


def _rope_parameters(file: GgufFile, name: str, head_dim: int) -> dict[str, Any]:
    """The rotary embedding in the style of transformers 5: `rope_type`, `rope_theta` and what the type needs."""
    parameters: dict[str, Any] = {"rope_theta": file.get(f"{name}.rope.freq_base", float, 10000.0)}
    rotated = _positive(file, f"{name}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        parameters["partial_rotary_factor"] = rotated / head_dim
    kind = file.get(f"{name}.rope.scaling.type", str, "none")
    if ROPE_FACTORS in file.names():
        return parameters | _stored_factors(file, name, rotated)
    if kind == "none":
        return parameters | {"rope_type": "default"}
    if kind not in ("linear", "yarn"):
        raise ModelError(f"`{file.path}` scales its rotary embedding by `{kind}`, which is not supported in GGUF files",
                         hint="supported: linear, yarn, and stored factors", exit_code=18)  # fmt: skip
    parameters |= {"rope_type": kind, "factor": file.get(f"{name}.rope.scaling.factor", float)}
    if kind == "yarn":
        original = f"{name}.rope.scaling.original_context_length"
        if original in file.metadata:
            parameters["original_max_position_embeddings"] = _positive(file, original)
        for key in ("beta_fast", "beta_slow"):
            stored = f"{name}.rope.scaling.yarn_{key}"
            if stored in file.metadata:
                parameters[key] = file.get(stored, float)
    return parameters


def _stored_factors(file: GgufFile, name: str, rotated: int) -> dict[str, Any]:
    """Llama 3's scaling, which GGUF stores as one divisor a rotary frequency [rotated / 2].

    `longrope` with equal lists and an attention factor of 1 divides each frequency by its factor and does no more.
    """
    tensor = file.tensor(ROPE_FACTORS)
    if tensor.shape != (rotated // 2,) or tensor.layout not in ("F32", "F16"):
        raise corrupt(file.path, f"`{ROPE_FACTORS}` is {tensor.layout} {tensor.shape}, not F32 ({rotated // 2},)")
    factors = dequantize(tensor.layout, tensor.data, rotated // 2)[0]
    if not np.isfinite(factors).all() or (factors <= 0).any():
        raise corrupt(file.path, f"`{ROPE_FACTORS}` holds factors that are not positive")
    divisors = [float(factor) for factor in factors]
    return {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": 1.0,
        "factor": 1.0,
        "original_max_position_embeddings": _positive(file, f"{name}.context_length"),
    }


def _positive(file: GgufFile, key: str, default: int | None = None) -> int:
    if not isinstance(file.metadata.get(key, 0), int):
        # An array holds one value a layer: a model whose layers differ.
        raise ModelError(f"`{file.path}` has no single number in `{key}`: layers that differ are not supported",
                         hint="use another model", exit_code=18)  # fmt: skip
    value = file.get(key, int, default)
    if value <= 0:
        raise corrupt(file.path, f"metadata `{key}` is {value}")
    return value


_ARCHITECTURES = {
    "llama": _Architecture(_llama_config, _LLAMA_NAMES, _LLAMA_LAYER_NAMES, "model.layers"),
    "qwen2": _Architecture(_qwen2_config, _LLAMA_NAMES, _LLAMA_LAYER_NAMES, "model.layers"),
    "qwen3": _Architecture(_qwen3_config, _LLAMA_NAMES, _LLAMA_LAYER_NAMES, "model.layers"),
    "gpt2": _Architecture(_gpt2_config, _GPT2_NAMES, _GPT2_LAYER_NAMES, "transformer.h"),
}
