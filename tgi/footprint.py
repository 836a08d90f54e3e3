"""Gives back the memory that only a start needed, once a process is ready to work."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path


def settle() -> None:
    """Give back what is free in the C library's heap, and the pages of code that is not running any more.

    Importing touches most of a library's code once: 70 MB of torch's. The system still has those pages in its cache,
    where they can make room for something else; whatever runs again is mapped again. What exists by now is also left
    out of future garbage collections, and about 1 MiB of garbage with it: to look for that takes longer than all else.
    Memory is given back on Linux only.
    """
    gc.freeze()
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # not every C library has it
        library.malloc_trim(0)
    for start, size in _code(Path("/proc/self/smaps").read_text()):
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)  # one that fails is kept


def _code(mappings: str) -> Iterator[tuple[int, int]]:
    """Address and size of every mapping of a file's code that nobody wrote into."""
    place: tuple[int, int] | None = None
    for line in mappings.splitlines():
        name, *values = line.split()
        if name == "Anonymous:":
            if place is not None and values[0] == "0":
                yield place
        elif not name.endswith(":"):
            first, last = (int(address, 16) for address in name.split("-"))
            is_code = values[0] == "r-xp" and values[-1].startswith("/")
            place = (first, last - first) if is_code else None
