"""Memory straight from the operating system, which hands it out zeroed, page by page as it is first written."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 26
_SMALL = 1 << 16
_ALIGNED = 64


def pages(size: int, *, huge: bool) -> npt.NDArray[np.uint8]:
    """`size` bytes of their own; `huge` asks for large pages, where the system has them, else it refuses them."""
    # Private: a page of what could be shared costs half as much again when it is first written.
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel without huge pages knows no such advice
            mapping.madvise(advice)
    return np.frombuffer(mapping, np.uint8)


class Arena:
    """Arrays side by side in large pages, for what every step reads from end to end: weights.

    A processor asks for memory ahead, up to the end of a page. A chunk goes with its last array.
    """

    def __init__(self) -> None:
        self._chunk = np.empty(0, np.uint8)
        self._used = 0

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """`size` bytes from a cache line on. Few are of their own, so that a sanitizer sees who reads beyond them."""
        if size < _SMALL:
            own = np.empty(size + _ALIGNED, np.uint8)
            start = -own.ctypes.data % _ALIGNED
            return own[start : start + size]
        if self._used + size > len(self._chunk):
            self._chunk, self._used = pages(max(size, _CHUNK), huge=True), 0
        start, self._used = self._used, -(-(self._used + size) // _ALIGNED) * _ALIGNED
        return self._chunk[start : start + size]
