"""Blocks have memory when they are written, and not earlier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.forward_batch import KVCache
from tgi.runner.fresh import FreshBlocks

BLOCKS, BLOCK_SIZE = 40, 4


@pytest.fixture
def handed_out(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The blocks of each request for memory."""
    found: list[list[int]] = []

    def populate(arrays: Sequence[Array], rows: Array) -> None:
        assert [array.shape for array in arrays] == 4 * [(BLOCKS, BLOCK_SIZE, 1, 2)]
        found.append(rows.tolist())

    monkeypatch.setattr(kernels, "populate", populate)
    return found


def fresh_blocks() -> FreshBlocks:
    keys = np.empty((BLOCKS, BLOCK_SIZE, 1, 2), np.float32)
    return FreshBlocks([KVCache(keys, keys.copy()) for _ in range(2)])


def test_a_block_is_asked_for_when_it_is_first_written(handed_out: list[list[int]]) -> None:
    fresh = fresh_blocks()
    for block in (0, 1, 3, 1, BLOCKS - 1, 2, 0):
        fresh.reach(np.array([block * BLOCK_SIZE + 1, 1], np.int64))
    assert handed_out == [[0], [1], [3], [BLOCKS - 1], [2]]


def test_only_blocks_that_the_step_writes_are_asked_for(handed_out: list[list[int]]) -> None:
    fresh = fresh_blocks()
    fresh.reach(np.zeros(0, np.int64))
    assert not handed_out
    fresh.reach(np.arange(5, 3 * BLOCK_SIZE, dtype=np.int64))
    fresh.reach(np.arange(9, 4 * BLOCK_SIZE + 1, dtype=np.int64))
    assert handed_out == [[1, 2], [3, 4]]
