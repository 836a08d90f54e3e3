"""The ledger adds up, honours what was asked for, and says no with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tgi.config import Batching, Config, Limits
from tgi.errors import ConfigError, ModelError
from tgi.layers.model import ModelConfig
from tgi.runner.memory import MAX_DEFAULT_CACHE, MemoryPlan, activation_bytes, available_memory, plan_memory

GIB = 1 << 30
LLAMA = {
    "model_type": "llama", "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip
BLOCK = 2 * 4 * 2 * 64 * 16 * 4  # keys and values, layers, kv heads, head size, tokens, bytes


def plan(
    available: int = 8 * GIB, model: dict[str, Any] | None = None, limits: Limits | None = None, **batching: Any
) -> MemoryPlan:
    config = Config(limits=limits or Limits(), batching=Batching(**batching))
    return plan_memory(
        ModelConfig.from_json(model or LLAMA), config, weight_bytes=GIB, kv_item_bytes=4, available=available
    )


def test_the_ledger_adds_up() -> None:
    ledger = plan().ledger

    assert ledger.weights == GIB
    assert ledger.kv_block == BLOCK
    assert ledger.kv_cache == plan().num_blocks * BLOCK
    assert ledger.weights + ledger.activations + ledger.kv_cache <= ledger.available == 8 * GIB


def test_the_cache_takes_half_of_what_is_left() -> None:
    small = plan(2 * GIB)
    left = 2 * GIB - GIB - small.ledger.activations

    assert left // 2 - BLOCK < small.ledger.kv_cache <= left // 2


def test_the_cache_is_bounded_by_default() -> None:
    deep = LLAMA | {"num_hidden_layers": 32, "max_position_embeddings": 1 << 20}

    assert MAX_DEFAULT_CACHE - 8 * BLOCK < plan(64 * GIB, deep).ledger.kv_cache <= MAX_DEFAULT_CACHE


def test_the_cache_is_no_larger_than_all_rows_can_use() -> None:
    assert plan(max_batch_size=3, limits=Limits(max_total_tokens=100)).num_blocks == 3 * 7


def test_a_smaller_share_of_the_memory_leaves_fewer_blocks() -> None:
    assert plan(2 * GIB, cuda_memory_fraction=0.75).num_blocks < plan(2 * GIB).num_blocks


def test_a_cache_asked_for_in_tokens_has_that_size() -> None:
    asked = plan(max_batch_total_tokens=1000)

    assert asked.num_blocks == 63
    assert asked.max_total_tokens == 63 * 16
    assert asked.max_step_tokens == 256


def test_limits_default_to_what_model_and_flags_say() -> None:
    default = plan()

    assert (default.max_total_tokens, default.max_step_tokens, default.max_rows) == (4096, 256, 128)
    assert plan(max_batch_size=5, max_batch_prefill_tokens=64).max_rows == 5
    assert plan(max_batch_prefill_tokens=64).max_step_tokens == 64
    assert plan(limits=Limits(max_total_tokens=777)).max_total_tokens == 777


def test_one_longest_request_may_take_more_than_half() -> None:
    left = 2 * GIB - GIB - plan(2 * GIB).ledger.activations
    tokens = int(left * 0.8) // BLOCK * 16

    assert plan(2 * GIB, limits=Limits(max_total_tokens=tokens)).max_total_tokens == tokens


@pytest.mark.parametrize(
    ("available", "limits", "batching"),
    [
        (GIB, Limits(), {}),
        (2 * GIB, Limits(), {"max_batch_total_tokens": 1 << 20}),
        (2 * GIB, Limits(max_total_tokens=1 << 20), {}),
        (8 * GIB, Limits(), {"cuda_memory_fraction": 0.1}),
    ],
)
def test_too_little_memory_is_refused_with_figures(available: int, limits: Limits, batching: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"needs \d+ MiB .* weights take 1024 MiB") as caught:
        plan(available, limits=limits, **batching)

    assert caught.value.exit_code == 17
    assert "--max-batch-total-tokens" in str(caught.value.hint)


def test_learned_positions_cannot_be_exceeded() -> None:
    gpt2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}

    assert plan(model=gpt2).max_total_tokens == 128
    with pytest.raises(ConfigError, match="must be <= 128"):
        plan(model=gpt2, limits=Limits(max_total_tokens=129))


def test_wider_steps_need_more() -> None:
    config = ModelConfig.from_json(LLAMA)

    assert activation_bytes(config, 512) > activation_bytes(config, 256) > 64 * 1000 * 4


def control_group(folder: Path, limit: str, used: int, cached: int) -> Path:
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(str(used))
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    return folder


def test_a_control_group_bounds_the_memory(tmp_path: Path) -> None:
    assert available_memory(control_group(tmp_path, "1000000", used=400_000, cached=100_000)) == 700_000


def test_without_a_bound_the_machine_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine:
        available = 12345

    monkeypatch.setattr(psutil, "virtual_memory", Machine)

    assert available_memory(tmp_path / "none") == 12345
    assert available_memory(control_group(tmp_path, "max", used=1, cached=1)) == 12345
