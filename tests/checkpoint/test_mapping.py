"""Mapped files: what is read, what is never written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi.checkpoint.mapping import corrupt, map_file
from tgi.errors import ModelError


def test_writing_to_the_view_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abcd")
    view = map_file(path)
    assert view.flags.writeable  # torch warns about anything else
    view[0] = 0
    assert path.read_bytes() == b"abcd"
    assert bytes(view) == b"\0bcd"


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
