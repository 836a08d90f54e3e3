"""Mapped files: what is read, what is never written, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.resident import resident_bytes
from tgi.checkpoint.mapping import corrupt, forget, map_file
from tgi.errors import ModelError


def test_writing_to_the_view_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abcd")
    view = map_file(path)
    assert view.flags.writeable  # torch warns about anything else
    view[0] = 0
    assert path.read_bytes() == b"abcd"
    assert bytes(view) == b"\0bcd"


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux shows them")
def test_a_forgotten_view_takes_no_memory_and_reads_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = np.arange(1 << 19, dtype=np.uint32)
    path.write_bytes(content.tobytes())
    view = map_file(path)[64:].view(np.uint32)
    assert np.array_equal(view, content[16:])
    assert resident_bytes(path) == content.nbytes
    forget(view)
    assert resident_bytes(path) == 0
    assert np.array_equal(view, content[16:])


def test_memory_that_is_no_file_is_never_forgotten() -> None:
    for memory in (np.ones(1 << 16), np.frombuffer(bytearray(b"1" * (1 << 16)), dtype=np.uint8), np.ones(0)):
        before = memory.copy()
        forget(memory[8:])
        assert np.array_equal(memory, before)


def test_missing_empty_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, code, words in (("absent", 12, "does not exist"), ("empty", 16, "the file is empty")):
        with pytest.raises(ModelError, match=words) as refusal:
            map_file(tmp_path / name)
        assert refusal.value.exit_code == code
    with pytest.raises(ModelError, match="cannot be read") as refusal:
        map_file(tmp_path)
    assert refusal.value.exit_code == 16


def test_a_corrupt_file_is_named_with_its_fault() -> None:
    error = corrupt(Path("a.gguf"), "it is odd")
    assert (error.message, error.exit_code) == ("`a.gguf` is corrupt: it is odd", 16)
    assert error.hint is not None
