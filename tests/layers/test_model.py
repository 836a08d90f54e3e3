"""config.json is read in every spelling, and what cannot be computed is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from tgi.errors import ModelError
from tgi.layers.model import ModelConfig

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4,
}  # fmt: skip
GPT2: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4}
SLIDING = {"use_sliding_window": True, "sliding_window": 20}


def read(base: dict[str, Any] = LLAMA, **changes: Any) -> ModelConfig:
    return ModelConfig.from_json(base | changes)


def test_what_may_be_left_out_is_filled_in() -> None:
    config = read()

    assert (config.num_kv_heads, config.head_dim, config.max_positions, config.norm_eps) == (4, 16, 2048, 1e-6)
    assert (config.activation, config.tie_word_embeddings, config.rope_interleaved) == ("silu", False, False)
    assert (config.attention_bias, config.mlp_bias) == (None, None)


def test_null_means_left_out() -> None:
    assert read(head_dim=None, num_key_value_heads=None, rope_scaling=None) == read()


def test_gpt2_has_names_of_its_own() -> None:
    config = read(GPT2, n_inner=None, n_positions=77, layer_norm_epsilon=1e-3)

    assert (config.hidden_size, config.num_layers, config.num_heads, config.intermediate_size) == (64, 2, 4, 256)
    assert (config.max_positions, config.norm_eps, config.activation) == (77, 1e-3, "gelu_tanh")
    assert (config.tie_word_embeddings, config.learned_positions, config.linears_transposed) == (True, True, True)
    assert not read(GPT2, linear_layout="out_in").linears_transposed
    assert read(GPT2, n_ctx=55).max_positions == 55


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"model_type": "llama", "sliding_window": 20}, (0, 0, 0, 0)),
        ({"model_type": "mistral"}, (4096,) * 4),
        ({"model_type": "mistral", "sliding_window": None}, (0, 0, 0, 0)),
        ({"model_type": "mistral", "sliding_window": 20}, (20,) * 4),
        ({"model_type": "qwen2", "sliding_window": 20}, (0, 0, 0, 0)),
        ({"model_type": "qwen2", **SLIDING}, (0, 0, 0, 0)),
        ({"model_type": "qwen2", **SLIDING, "max_window_layers": 1}, (0, 20, 20, 20)),
        ({"model_type": "qwen3", **SLIDING, "max_window_layers": 0}, (20,) * 4),
        (
            {"model_type": "qwen3", **SLIDING, "layer_types": ["full_attention", "sliding_attention"] * 2},
            (0, 20, 0, 20),
        ),
    ],
)
def test_windows_follow_the_family(changes: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert read(**changes).windows == windows


def test_a_head_of_qwen3_has_a_size_of_its_own() -> None:
    assert read(model_type="qwen3").head_dim == 128


@pytest.mark.parametrize(("name", "kernel"), [("swish", "silu"), ("gelu", "gelu"), ("gelu_new", "gelu_tanh")])
def test_activations_have_many_names(name: str, kernel: str) -> None:
    assert read(hidden_act=name).activation == kernel


@pytest.mark.parametrize(
    ("changes", "named", "exit_code"),
    [
        ({"hidden_act": "quick_gelu"}, "`quick_gelu`", 18),
        ({"rope_scaling": {"type": "mrope"}}, "`mrope`", 18),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "layer types", 18),
        ({"model_type": "qwen2", **SLIDING, "layer_types": ["linear_attention"] * 4}, "`linear_attention`", 18),
        ({"model_type": "qwen2", **SLIDING, "layer_types": ["full_attention"]}, "1 of 4 layers", 16),
        ({"hidden_size": None}, "lacks `hidden_size`", 16),
        ({"num_hidden_layers": "4"}, "`num_hidden_layers` must be a positive integer. Given: '4'", 16),
        ({"vocab_size": True}, "`vocab_size`", 16),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3", 16),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], named: str, exit_code: int) -> None:
    with pytest.raises(ModelError) as caught:
        read(**changes)

    assert named in caught.value.message
    assert caught.value.exit_code == exit_code
