"""A token's rotation depends on its position and its request's variant, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tgi.layers import rotary
from tgi.layers.forward_batch import ForwardBatch
from tgi.layers.rope_scaling import RopeConfig
from tgi.layers.rotary import PIECE, Rotary

DYNAMIC = {"rope_scaling": {"type": "dynamic", "factor": 4.0}}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def config(**json: object) -> RopeConfig:
    return RopeConfig.from_json(dict(json), head_dim=20, max_positions=64)


def batch(*members: tuple[list[int], int]) -> ForwardBatch:
    """Positions and variant of each request."""
    starts = np.cumsum([0, *(len(positions) for positions, _ in members)], dtype=np.int32)
    nothing = np.empty(0, np.int32)
    return ForwardBatch(
        input_ids=nothing,
        positions=np.array([position for positions, _ in members for position in positions], np.int32),
        slot_mapping=nothing,
        query_starts=starts,
        context_lens=nothing,
        block_tables=nothing,
        rope_variants=np.array([variant for _, variant in members], np.int32),
        logits_indices=nothing,
    )


def test_angles_are_position_times_frequency() -> None:
    rope = config()

    turned = Rotary(rope)(batch(([0, 3, 5000], 0)))

    angles = torch.tensor([[0.0], [3.0], [5000.0]]) * torch.from_numpy(rope.frequencies()[0])
    torch.testing.assert_close(turned.cos, angles.cos())
    torch.testing.assert_close(turned.sin, angles.sin())
    assert not turned.interleaved


def test_the_attention_factor_scales_both() -> None:
    rope = config(rope_scaling={"type": "yarn", "factor": 4.0})

    turned = Rotary(rope)(batch(([0], 0)))

    assert turned.cos[0, 0] == pytest.approx(rope.frequencies()[1])


def test_a_longer_table_holds_the_same_values() -> None:
    grown = Rotary(config())
    for position in (0, PIECE - 1, PIECE, 3 * PIECE):
        grown(batch(([position], 0)))
    positions = list(range(0, 3 * PIECE, 7))

    first, second = grown(batch((positions, 0))), Rotary(config())(batch((positions, 0)))

    assert torch.equal(first.cos, second.cos)
    assert torch.equal(first.sin, second.sin)


def test_every_request_of_a_step_turns_by_its_own_variant() -> None:
    turning = Rotary(config(**DYNAMIC))
    members = [([70, 71], 100), ([5], 0), ([90], 130), ([10, 11, 12], 100)]

    together = turning(batch(*members))

    alone = [Rotary(config(**DYNAMIC))(batch(member)) for member in members]
    assert torch.equal(together.cos, torch.cat([one.cos for one in alone]))
    assert torch.equal(together.sin, torch.cat([one.sin for one in alone]))
    assert not torch.equal(alone[0].cos, Rotary(config(**DYNAMIC))(batch(([70, 71], 0))).cos)


def test_few_tables_are_kept_and_a_forgotten_one_comes_back_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotary, "MAX_TABLES", 3)
    turning = Rotary(config(**DYNAMIC))
    first = turning(batch(([70], 100)))
    turning(batch(([1], 0)))

    for variant in range(101, 110):
        turning(batch(([70], variant)))

    assert len(turning._tables) == 3
    assert 0 in turning._tables
    assert torch.equal(turning(batch(([70], 100))).cos, first.cos)


def test_divisors_of_a_gguf_file_are_llama3_scaling() -> None:
    plain, scaled = config(), config(rope_scaling=LLAMA3)
    divisors = plain.frequencies()[0] / scaled.frequencies()[0]

    first = Rotary(plain, divisors=divisors, interleaved=True)(batch(([1, 60], 0)))
    second = Rotary(scaled)(batch(([1, 60], 0)))

    torch.testing.assert_close(first.cos, second.cos)
    assert first.interleaved
