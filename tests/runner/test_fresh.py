"""Blocks have memory before they are written, and only few have it too early."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.forward_batch import KVCache
from tgi.runner.fresh import AHEAD, FreshBlocks

BLOCKS, BLOCK_SIZE = 40, 4


@pytest.fixture
def handed_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks of the first layer's keys, in the order of requests for them."""
    found: list[int] = []

    def populate(arrays: Sequence[Array]) -> None:
        assert len(arrays) == 4
        assert {array.shape for array in arrays} == {arrays[0].shape}
        found.extend(arrays[0][:, 0, 0, 0].astype(int).tolist())

    monkeypatch.setattr(kernels, "populate", populate)
    return found


def caches() -> list[KVCache]:
    keys = np.empty((BLOCKS, BLOCK_SIZE, 1, 2), np.float32)
    keys[:] = np.arange(BLOCKS)[:, None, None, None]
    return [KVCache(keys, keys.copy()) for _ in range(2)]


def test_every_block_is_asked_for_once_and_before_it_is_written(handed_out: list[int]) -> None:
    fresh = FreshBlocks(caches())
    for block in (0, 1, AHEAD, AHEAD + 1, 3, 30, BLOCKS - 1, 2):
        fresh.reach(np.array([block * BLOCK_SIZE, 1], np.int64))
        assert block in handed_out
        assert handed_out == list(range(len(handed_out)))
    assert len(handed_out) == BLOCKS


def test_few_blocks_more_than_needed_have_memory(handed_out: list[int]) -> None:
    fresh = FreshBlocks(caches())
    fresh.reach(np.zeros(0, np.int64))
    assert not handed_out
    fresh.reach(np.arange(3 * BLOCK_SIZE, dtype=np.int64))
    assert len(handed_out) == 3 + AHEAD
