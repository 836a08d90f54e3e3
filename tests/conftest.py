"""What tests of several folders share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.live import LiveServer


def pytest_configure() -> None:
    """Take signals as in a terminal: a shell starts background jobs with SIGINT ignored, nohup with SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    """One `tgi serve` of the default model, for all tests that only talk to it and leave it as it was."""
    with LiveServer() as server:
        yield server
