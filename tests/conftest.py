"""What tests of several folders share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.fake_hub import FakeHub
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


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of its own, which the hub's library in this process and in its children talks to; nobody waits for it."""
    no_wait = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time", no_wait)
    monkeypatch.setattr("huggingface_hub.utils._http.time", no_wait)
    monkeypatch.setattr("tgi.hub.transfer.BACK_OFF_S", 0.0)
    monkeypatch.setattr("tgi.hub.snapshot.time", no_wait)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    yield hub
    hub.close()
