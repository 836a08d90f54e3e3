"""A call in a child comes back as a value, or as the error it raised."""

from __future__ import annotations

import pytest

from tgi.cli.aside import ErrorAside, call_aside
from tgi.errors import TgiError


def test_a_value_comes_back() -> None:
    assert call_aside("tgi.cli.console:nearest", "sreve", ["serve", "chat"]) == "serve"


def test_an_error_comes_back_with_hint_and_exit_code() -> None:
    with pytest.raises(ErrorAside) as error:
        call_aside("tgi.hub.files:find_local", "./no-such-model.gguf")
    assert error.value.exit_code == 12
    assert "no-such-model" in error.value.message
    assert error.value.hint


def test_a_child_that_dies_is_reported() -> None:
    with pytest.raises(TgiError, match="ended with status 3"):
        call_aside("os:_exit", 3)
