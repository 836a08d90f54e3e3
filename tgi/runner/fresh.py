"""Memory of KV blocks that nobody has written yet."""

from __future__ import annotations

from tgi import kernels
from tgi.layers.forward_batch import KVCache
from tgi.runner.plan import Int64

AHEAD = 8
"""Blocks more than a step needs."""


class FreshBlocks:
    """Has the memory of blocks handed out before a step writes them: blocks are lent in the order of their numbers.

    Else the step's one thread that writes keys and values would wait for each page of them, in every layer.
    """

    def __init__(self, caches: list[KVCache]) -> None:
        self._parts = [part for cache in caches for part in (cache.keys, cache.values)]
        self._num_blocks, self._block_size = self._parts[0].shape[:2]
        self._reached = 0

    def reach(self, slots: Int64) -> None:
        """`slots` [T] are written next."""
        last = int(slots.max(initial=-1)) // self._block_size
        if last < self._reached:
            return
        first, self._reached = self._reached, min(last + 1 + AHEAD, self._num_blocks)
        kernels.populate([part[first : self._reached] for part in self._parts])
