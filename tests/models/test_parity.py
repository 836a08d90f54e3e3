"""Every model type against transformers: the same log-probabilities, however the tokens are cut into steps.

One row a variant; a model file is named by its `model_type`: llama, qwen2, qwen3, gpt2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.step_plans import Driver
from tests.tiny_models import VOCAB_SIZE, reference_model, tiny_model
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Limits, Model
from tgi.runner.runner import ModelRunner

LENGTH = 200
TOLERANCE = 1e-4

LONG_FACTORS = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + 0.5 * i for i in range(8)]}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama all heads": ("llama", {"num_key_value_heads": 4}),
    "llama one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("llama", {"head_dim": 24}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    "llama dynamic": (
        "llama",
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "llama llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64, "rope_theta": 500.0,
            }
        },
    ),
    "llama yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4,
            }
        },
    ),
    "llama yarn mscale": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4,
                "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False, "beta_fast": 16, "beta_slow": 2,
            }
        },
    ),
    "llama longrope beyond": (
        "llama",
        {
            "max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "longrope", "original_max_position_embeddings": 64, "rope_theta": 1e4, **LONG_FACTORS,
            },
        },
    ),
    "llama longrope within": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "longrope", "original_max_position_embeddings": 512, "rope_theta": 1e4, **LONG_FACTORS,
            }
        },
    ),
    "llama proportional": (
        "llama",
        {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e3}},
    ),
    "mistral window": ("mistral", {"sliding_window": 33}),
    "mistral no window": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "qwen2 layer types": (
        "qwen2",
        {
            "use_sliding_window": True, "sliding_window": 20, "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3": ("qwen3", {}),
    "qwen3 tied, biases": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True, "head_dim": 32}),
    "qwen3 window": ("qwen3", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}),
    "gpt2": ("gpt2", {}),
    "gpt2 scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 80}),
    "gpt2 unscaled, relu": ("gpt2", {"scale_attn_weights": False, "activation_function": "relu"}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
}  # fmt: skip


def load(path: Path, **model: Any) -> ModelRunner:
    config = Config(
        batching=Batching(max_batch_total_tokens=4096, max_batch_prefill_tokens=1024),
        limits=Limits(max_total_tokens=256),
        model=Model(**model),
    )
    return ModelRunner.load(open_checkpoint(path), config=config)


def expected_logprobs(path: Path, ids: list[int]) -> np.ndarray:
    """By transformers: of each token but the first, given those before it."""
    with torch.inference_mode():
        logprobs = torch.log_softmax(reference_model(path)(torch.tensor([ids])).logits[0], dim=-1)
    return logprobs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def scored(runner: ModelRunner, ids: list[int], chunk: int) -> np.ndarray:
    """By our own runner, `chunk` tokens a step."""
    driver = Driver(runner)
    sequence = driver.add(ids, score=True)
    driver.run([sequence], 1, chunk=chunk)
    return np.array([sequence.logprobs[position] for position in range(1, len(ids))], dtype=np.float32)


@pytest.fixture
def ids() -> list[int]:
    return np.random.default_rng(1).integers(3, VOCAB_SIZE, LENGTH).tolist()


@pytest.mark.parametrize("name", VARIANTS)
def test_log_probabilities_are_those_of_transformers(name: str, tmp_path: Path, ids: list[int]) -> None:
    model_type, changes = VARIANTS[name]
    path = tiny_model(tmp_path, model_type, **changes)
    expected = expected_logprobs(path, ids)
    assert np.ptp(expected) > 1, "a flat model would prove nothing"

    runner = load(path)

    whole = scored(runner, ids, LENGTH)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(scored(runner, ids, 1), whole)
    np.testing.assert_array_equal(scored(runner, ids, 37), whole)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_requests_of_different_lengths_share_steps(model_type: str, tmp_path: Path, ids: list[int]) -> None:
    runner = load(tiny_model(tmp_path, model_type))
    lengths = [LENGTH, 1, 17, 90, 16]
    alone = []
    for length in lengths:
        driver = Driver(runner)
        sequence = driver.add(ids[-length:], longest=length + 8, score=True)
        driver.run([sequence], 8)
        alone.append(sequence)

    driver = Driver(runner)
    together = [driver.add(ids[-length:], longest=length + 8, score=True) for length in lengths]
    driver.run(together, 8, chunk=23)

    for one, other in zip(together, alone, strict=True):
        assert (one.output, one.logprobs) == (other.output, other.logprobs)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_a_reused_prefix_changes_nothing(model_type: str, tmp_path: Path, ids: list[int]) -> None:
    runner = load(tiny_model(tmp_path, model_type))
    driver = Driver(runner)
    cold = driver.add(ids[:100], longest=110, score=True)
    driver.run([cold], 10)

    warm = driver.add(ids[:100], longest=110, prefix=cold, shared_blocks=4, score=True)
    driver.run([warm], 10)

    assert warm.computed - len(warm.ids) == cold.computed - len(cold.ids)
    assert warm.output == cold.output
    assert warm.logprobs == {position: value for position, value in cold.logprobs.items() if position > 64}


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_greedy_text_is_that_of_transformers(model_type: str, tmp_path: Path, ids: list[int]) -> None:
    path = tiny_model(tmp_path, model_type)
    prompt = torch.tensor([ids[:20]])
    expected = reference_model(path).generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip

    driver = Driver(load(path))
    sequence = driver.add(ids[:20], longest=60)
    driver.run([sequence], 40)

    assert sequence.ids == expected[0].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_half_precision_weights_are_computed_in_float32(
    model_type: str, dtype: torch.dtype, tmp_path: Path, ids: list[int]
) -> None:
    path = tiny_model(tmp_path, model_type, dtype=dtype)

    runner = load(path)

    assert runner.dtype == str(dtype).removeprefix("torch.")
    # Keys and values are rounded to 16 bits in the cache, and nothing else: far nearer than computing in 16 bits.
    np.testing.assert_allclose(scored(runner, ids, LENGTH), expected_logprobs(path, ids), rtol=0, atol=0.25)


def test_weights_asked_for_in_another_type_are_cast_once(tmp_path: Path, ids: list[int]) -> None:
    path = tiny_model(tmp_path, "llama", dtype=torch.bfloat16)

    runner = load(path, dtype="float32")

    assert runner.dtype == "float32"
    np.testing.assert_allclose(scored(runner, ids, LENGTH), expected_logprobs(path, ids), rtol=0, atol=TOLERANCE)


def test_rope_scaling_can_be_replaced(tmp_path: Path, ids: list[int]) -> None:
    plain = tiny_model(tmp_path / "plain", "llama")
    stretched = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    expected = expected_logprobs(tiny_model(tmp_path / "linear", "llama", rope_parameters=stretched), ids)

    runner = load(plain, rope_scaling="linear", rope_factor=4.0)

    np.testing.assert_allclose(scored(runner, ids, LENGTH), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_torch_computes_what_the_native_kernels_compute(model_type: str, tmp_path: Path, ids: list[int]) -> None:
    path = tiny_model(tmp_path, model_type)
    expected = expected_logprobs(path, ids[:60])

    runner = load(path, disable_custom_kernels=True)

    assert runner.kernels == "torch"
    np.testing.assert_allclose(scored(runner, ids[:60], 25), expected, rtol=0, atol=TOLERANCE)
