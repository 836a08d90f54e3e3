"""Memory of KV blocks that nobody has written yet."""

from __future__ import annotations

import numpy as np

from tgi import kernels
from tgi.layers.forward_batch import KVCache
from tgi.runner.plan import Int64


class FreshBlocks:
    """Has the memory of blocks handed out when a step is about to write them for the first time.

    Else the step's one thread that writes keys and values would wait for each page of them, in every layer. No earlier
    than they are written: a long prompt has many blocks, and decoding requests would wait for the memory of all.
    """

    def __init__(self, caches: list[KVCache]) -> None:
        self._parts = [part for cache in caches for part in (cache.keys, cache.values)]
        num_blocks, self._block_size = self._parts[0].shape[:2]
        self._written = np.zeros(num_blocks, np.bool_)

    def reach(self, slots: Int64) -> None:
        """`slots` [T] are written next."""
        blocks = slots // self._block_size
        if self._written[blocks].all():
            return
        fresh = np.unique(blocks[~self._written[blocks]])
        self._written[fresh] = True
        kernels.populate(self._parts, fresh)
