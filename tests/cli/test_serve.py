"""What is typed, under any of the names, reaches the start-up as the same settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tgi.cli.main import launcher, main, server
from tgi.config import Config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, list[str]]]:
    """Every start-up that would have happened: settings and warnings."""
    calls: list[tuple[Config, list[str]]] = []

    def run(config: Config, warnings: list[str]) -> int:
        calls.append((config, warnings))
        return 7

    monkeypatch.setattr("tgi.cli.startup.run", run)
    monkeypatch.setattr("tgi.log.configure", lambda **_: None)
    return calls


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (main, ["serve", "--model-id", "m", "--port", "80"]),
        (main, ["launch", "--model-id", "m", "--port", "80"]),
        (main, ["--model-id", "m", "--port", "80"]),
        (launcher, ["--model-id", "m", "--port", "80"]),
        (server, ["serve", "m", "--port", "80", "--uds-path", "/tmp/x", "--no-sharded"]),
    ],
)
def test_every_name_of_the_command_starts_the_same_server(
    started: list[tuple[Config, list[str]]], program: Callable[[Any], None], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        program(arguments)
    assert end.value.code == 7
    ((config, warnings),) = started
    assert (config.model.model_id, config.http.port) == ("m", 80)
    assert warnings == []


def test_the_model_servers_logger_level_is_the_log_level(started: list[tuple[Config, list[str]]]) -> None:
    with pytest.raises(SystemExit):
        server(["serve", "m", "--logger-level", "DEBUG"])
    assert started[0][0].telemetry.log_level == "DEBUG"
