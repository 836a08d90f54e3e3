"""Memory of the operating system's own, and weights side by side in it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from tgi import kernels
from tgi.kernels import pages as module
from tgi.kernels.pages import Arena, pages


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("huge", [False, True])
def test_pages_are_zeroed_and_can_be_written(huge: bool) -> None:
    found = pages(1 << 20, huge=huge)
    assert found.shape == (1 << 20,)
    assert not found.any()
    found[:] = 1
    assert (found == 1).all()


def test_pages_take_memory_as_they_are_written() -> None:
    before = resident()
    found = pages(1 << 28, huge=False)
    found[: 1 << 22] = 1
    assert resident() - before < 1 << 24


def test_memory_can_be_had_before_it_is_written() -> None:
    if kernels.record([]) is None or sys.platform != "linux":
        pytest.skip("only the native library asks for it, on Linux")
    try:
        mmap.mmap(-1, mmap.PAGESIZE).madvise(23)  # MADV_POPULATE_WRITE
    except OSError:
        pytest.skip("Linux has it from 5.14 on")
    found = pages(1 << 25, huge=False).reshape(4, 64, -1)
    found[1, 3, 5] = 7
    before = resident()
    kernels.populate(list(found), np.arange(1, 33))
    assert 0.9 * (1 << 24) < resident() - before < 1.2 * (1 << 24)
    assert found[1, 3, 5] == 7
    assert not found[0].any()
    with pytest.raises(ValueError, match="of one shape"):
        kernels.populate([found[0], found[1, 1:]], np.arange(1))
    kernels.populate(list(found), np.arange(0))


def test_a_system_without_such_advice_has_pages_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    assert len(pages(4096, huge=True)) == 4096


def test_arrays_of_an_arena_lie_apart_and_begin_at_cache_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 16)
    monkeypatch.setattr(module, "_SMALL", 1 << 7)
    arena = Arena()
    taken = [arena.take(size) for size in (1, 100, 60000, 10000, 1 << 17, 64)]
    for number, array in enumerate(taken):
        array[:] = number + 1
    for number, array in enumerate(taken):
        assert array.ctypes.data % 64 == 0
        assert (array == number + 1).all()
    assert [len(array) for array in taken] == [1, 100, 60000, 10000, 1 << 17, 64]


def test_a_chunk_goes_with_its_last_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 26)
    arena = Arena()
    first = arena.take(1 << 26)
    first[:] = 1
    full = resident()
    arena.take(1 << 16)  # a new chunk
    np.testing.assert_array_equal(first[:4], 1)
    del first
    assert full - resident() > 1 << 25
