"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live import LiveServer


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    """One `tgi serve` of the default model, for all tests that only talk to it and leave it as it was."""
    with LiveServer() as server:
        yield server
