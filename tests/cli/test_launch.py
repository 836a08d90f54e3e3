"""What the launcher makes of its children's ends; tests/integration/test_launch.py does it with real ones."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tgi.cli import launch
from tgi.cli.supervision import Ended
from tgi.config import Config, Http, Telemetry

USEFUL, USELESS = Ended(None, "SIGKILL", 60.0), Ended(None, "SIGSEGV", 0.1)
LOADED = Ended(0, "", None)


class Script:
    """A guardian whose children end as written; `stops_at` is the index of the child during which a signal comes."""

    def __init__(self, ends: list[Ended], stops_at: int = 99) -> None:
        self.ends, self.stops_at = ends, stops_at
        self.names: list[str] = []
        self.pauses: list[float] = []
        self.stopping = False

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def watch(self, name: str, job: object, *, grace_s: float) -> Ended:
        self.stopping = len(self.names) == self.stops_at
        self.names.append(name)
        return self.ends[len(self.names) - 1]

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def played(
    monkeypatch: pytest.MonkeyPatch, ends: list[Ended], stops_at: int = 99, **telemetry: Any
) -> tuple[int, Script]:
    """The exit code of a launcher whose children end like this, and what it did."""
    script = Script(ends, stops_at)
    monkeypatch.setattr(launch, "Guardian", lambda **_: script)
    config = Config(http=Http(port=0), telemetry=Telemetry(**telemetry))
    return launch.run(config, []), script


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ([Ended(12, "", None)], "DownloadError: the download ended with exit code 12"),
        ([Ended(None, "SIGKILL", None)], "DownloadError: the download was killed by SIGKILL"),
        ([LOADED, Ended(16, "", None)], "ShardCannotStart: the server ended with exit code 16 before it was ready"),
        ([LOADED, Ended(None, "SIGKILL", None)], "ShardCannotStart: the server was killed by SIGKILL"),
        ([LOADED, Ended(1, "", 5.0)], "ShardFailed: the server ended with exit code 1"),
        ([LOADED, *[USELESS] * 5], "WebserverFailed: the server was killed by SIGSEGV, 5 times in a row"),
    ],
)
def test_what_cannot_be_mended_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ends: list[Ended], word: str
) -> None:
    code, script = played(monkeypatch, ends)
    assert (code, len(script.names)) == (1, len(ends))
    assert f"error: {word}" in capsys.readouterr().err


def test_a_server_that_was_of_use_is_started_again_whenever_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    code, script = played(monkeypatch, [LOADED, *[USEFUL] * 20, Ended(0, "", 1.0)], stops_at=21)
    assert code == 0
    assert script.names == ["download", *["server"] * 21]
    assert script.pauses == pytest.approx([0.1] * 20)


@pytest.mark.parametrize("stops_at", [0, 1])
def test_a_signal_ends_with_0_whatever_the_child_says(monkeypatch: pytest.MonkeyPatch, stops_at: int) -> None:
    ends = [Ended(0, "", None), Ended(1, "", 1.0)] if stops_at else [Ended(None, "SIGTERM", None)]
    code, script = played(monkeypatch, ends, stops_at)
    assert (code, len(script.names)) == (0, stops_at + 1)


def test_with_json_output_the_launcher_writes_log_records(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="tgi.cli"):
        played(monkeypatch, [Ended(12, "", None)], json_output=True)
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]
    assert "error: " not in capsys.readouterr().err
