"""Errors of the library and of the machine, in our words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from tgi.errors import ModelError
from tgi.hub.faults import first_line, hub_errors, status_of


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 15, "no room left"),
        (OSError(errno.EFBIG, "File too large"), 15, "no room left"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), 1, "`/cache/x` cannot be written"),
        (OSError(errno.EROFS, "Read-only file system", "/cache"), 1, "Read-only"),
        (OfflineModeIsEnabled("offline"), 14, "HF_HUB_OFFLINE"),
        (ConnectionError("refused"), 14, "cannot be reached: refused"),
        (ModelError("as it is", exit_code=18), 18, "as it is"),
    ],
)
def test_a_fault_says_what_to_do(error: Exception, code: int, words: str) -> None:
    with pytest.raises(ModelError) as caught, hub_errors("a/b", None, Path("/cache"), None, None):
        raise error
    assert caught.value.exit_code == code
    assert words in caught.value.message
    assert caught.value.hint or code == 18


def test_an_interruption_is_no_fault() -> None:
    with pytest.raises(KeyboardInterrupt), hub_errors("a/b", None, Path("/cache"), None, None):
        raise KeyboardInterrupt


def test_an_error_without_answer_has_no_status() -> None:
    assert status_of(ValueError("x")) is None
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
