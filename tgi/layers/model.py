"""What a model file imports first: its configuration, read from any vintage of config.json, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tgi.errors import ModelError
from tgi.kernels import Array
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.rope_scaling import RopeConfig

_HINT = "fetch the model again, or use another one"

# config.json's names of activations -> the kernels' names. `gelu_fast` and `gelu_new` are the same tanh formula.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What config.json may leave out, as the family's class in transformers fills it in."""

    max_positions: int
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    norm_eps: float = 1e-6
    activation: str = "silu"


_DEFAULTS = {
    "gpt2": _Defaults(1024, tie_word_embeddings=True, norm_eps=1e-5, activation="gelu_new"),
    "llama": _Defaults(2048),
    "mistral": _Defaults(131072, sliding_window=4096),
    "qwen2": _Defaults(32768, sliding_window=4096),
    "qwen3": _Defaults(32768, sliding_window=4096),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder's shape and switches, under one set of names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    activation: str  # a kernels' name
    norm_eps: float
    max_positions: int  # tokens of the longest sequence the model was made for
    tie_word_embeddings: bool
    rope: RopeConfig
    rope_interleaved: bool  # q and k rows are stored for pairs (2i, 2i+1)
    windows: tuple[int, ...]  # [num_layers] tokens a query sees, itself included; 0: all
    attention_bias: bool | None  # None: config.json does not say, so what the checkpoint holds decides
    mlp_bias: bool | None
    scale_attn_weights: bool  # gpt2: divide scores by sqrt(head_dim)
    scale_attn_by_inverse_layer_idx: bool  # gpt2: and by layer + 1
    learned_positions: bool  # a table of vectors, which ends at max_positions
    linears_transposed: bool  # gpt2: linear weights are stored [inputs, outputs]

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> ModelConfig:
        """Read config.json, old or new spelling.

        Raises: ModelError (18) naming a value that is not supported, (16) naming one that is missing or malformed.
        """
        model_type = str(config.get("model_type"))
        defaults = _DEFAULTS.get(model_type, _DEFAULTS["llama"])
        hidden_size = _count(config, "hidden_size", "n_embd")
        num_layers = _count(config, "num_hidden_layers", "n_layer")
        num_heads = _count(config, "num_attention_heads", "n_head")
        # Qwen3 alone defaults to a fixed width; everywhere else a head is its share of the hidden size.
        head_dim = _count(config, "head_dim", default=128 if model_type == "qwen3" else hidden_size // num_heads)
        num_kv_heads = _count(config, "num_key_value_heads", default=num_heads)
        if num_heads % num_kv_heads:
            raise ModelError(f"config.json: {num_heads} query heads cannot share {num_kv_heads} key heads evenly",
                             exit_code=16)  # fmt: skip
        max_positions = _count(config, "max_position_embeddings", "n_positions", "n_ctx",
                               default=defaults.max_positions)  # fmt: skip
        rope = RopeConfig.from_json(config, head_dim=head_dim, max_positions=max_positions)
        return cls(
            model_type=model_type,
            vocab_size=_count(config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_count(config, "intermediate_size", "n_inner", default=4 * hidden_size),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            activation=_activation(config, defaults.activation),
            norm_eps=float(_first(config, "rms_norm_eps", "layer_norm_epsilon", default=defaults.norm_eps)),
            max_positions=max_positions if model_type == "gpt2" else rope.longest,
            tie_word_embeddings=bool(_first(config, "tie_word_embeddings", default=defaults.tie_word_embeddings)),
            rope=rope,
            rope_interleaved=bool(config.get("rope_interleaved", False)),
            windows=_windows(config, model_type, num_layers, defaults),
            attention_bias=config.get("attention_bias"),
            mlp_bias=config.get("mlp_bias"),
            scale_attn_weights=bool(_first(config, "scale_attn_weights", default=True)),
            scale_attn_by_inverse_layer_idx=bool(config.get("scale_attn_by_inverse_layer_idx", False)),
            learned_positions=model_type == "gpt2",
            linears_transposed=config.get("linear_layout", "in_out") == "in_out",
        )


class CausalLM(Protocol):
    """A decoder over the paged cache. Activations are float32; no result depends on the other requests of a batch."""

    config: ModelConfig

    def forward(self, batch: ForwardBatch, caches: list[KVCache]) -> Array:
        """Compute the step's tokens, writing their keys and values.

        Returns: [L, hidden] final states of the tokens that need logits.
        """

    def logits(self, hidden: Array) -> Array:
        """Scores of every token of the vocabulary: [L, hidden] -> [L, vocab]."""


def _first(config: dict[str, Any], *names: str, default: Any) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), default)


def _count(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    value = _first(config, *names, default=default)
    if value is None:
        raise ModelError(f"config.json lacks `{names[0]}`", exit_code=16, hint=_HINT)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ModelError(f"config.json: `{names[0]}` must be a positive integer. Given: {value!r}", exit_code=16,
                         hint=_HINT)  # fmt: skip
    return value


def _activation(config: dict[str, Any], default: str) -> str:
    name = _first(config, "hidden_act", "activation_function", "hidden_activation", default=default)
    if name not in ACTIVATIONS:
        raise ModelError(f"activation `{name}` is not supported", exit_code=18,
                         hint=f"supported: {', '.join(ACTIVATIONS)}")  # fmt: skip
    return ACTIVATIONS[name]


def _windows(config: dict[str, Any], model_type: str, num_layers: int, defaults: _Defaults) -> tuple[int, ...]:
    """Each layer's sliding window, by the rule of its family in transformers."""
    # null means "no window" and must not fall back to the default, which only an absent key does.
    window = config.get("sliding_window", defaults.sliding_window) or 0
    if model_type == "mistral":
        return (window,) * num_layers
    if model_type not in ("qwen2", "qwen3") or not config.get("use_sliding_window", False):
        return (0,) * num_layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = _first(config, "max_window_layers", default=28)
        return tuple(window if layer >= first else 0 for layer in range(num_layers))
    if len(kinds) != num_layers:
        raise ModelError(f"config.json: `layer_types` names {len(kinds)} of {num_layers} layers", exit_code=16)
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ModelError(f"layer type `{sorted(unknown)[0]}` is not supported", exit_code=18)
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
