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

    def run(config: Config, warnings: list[str], **_: object) -> int:
        calls.append((config, warnings))
        return 7

    monkeypatch.setattr("tgi.cli.startup.run", run)
    monkeypatch.setattr("tgi.cli.launch.run", run)
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


@pytest.mark.parametrize(("value", "port"), [("8081", 8081), ("http", 80), ("", 80), ("99999", 80), ("²", 80)])
def test_vertex_tells_the_port_whatever_else_is_said(
    started: list[tuple[Config, list[str]]], monkeypatch: pytest.MonkeyPatch, value: str, port: int
) -> None:
    monkeypatch.setenv("AIP_HTTP_PORT", value)
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/alive")
    with pytest.raises(SystemExit):
        main(["serve", "--port", "80"])
    http = started[0][0].http
    assert (http.port, http.aip_predict_route, http.aip_health_route) == (port, "/predict", "/alive")


def test_the_model_servers_logger_level_is_the_log_level(started: list[tuple[Config, list[str]]]) -> None:
    with pytest.raises(SystemExit):
        server(["serve", "m", "--logger-level", "DEBUG"])
    assert started[0][0].telemetry.log_level == "DEBUG"
