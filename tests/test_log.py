"""Log lines are whole, parseable and safe to print."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from tgi import log
from tgi.errors import ConfigError


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Put the process's logging back: other tests rely on pytest's handlers."""
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("tgi").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("tgi").setLevel(ours)
    logging.getLogger("tgi.server").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def lines(
    monkeypatch: pytest.MonkeyPatch, *, json_lines: bool, level: str = "info", colour: bool = False
) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout" if json_lines else "stderr", stream)
    log.configure(json_lines=json_lines, level=level, colour=colour)
    return stream


def test_a_json_line_has_tgis_names_and_goes_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=True)
    span = {"name": "generate", "total_time": "1.2ms", "seed": 7}
    logging.getLogger("tgi.server.inference").info("Success", extra={"span": span})
    line = json.loads(stream.getvalue())
    assert line["level"] == "INFO"
    assert line["message"] == "Success"
    assert line["target"] == "tgi.server.inference"
    assert line["span"] == span
    assert line["spans"] == [span]
    assert len(line["timestamp"]) == len("2026-07-05T10:00:00.123456Z")
    assert line["timestamp"].endswith("Z")


def test_a_warning_is_called_warn_as_in_tgi(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=True)
    logging.getLogger("tgi").warning("careful")
    assert json.loads(stream.getvalue())["level"] == "WARN"


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_message_cannot_forge_a_line_or_a_colour(monkeypatch: pytest.MonkeyPatch, json_lines: bool) -> None:
    stream = lines(monkeypatch, json_lines=json_lines)
    logging.getLogger("tgi").info("one\n2026 INFO two\x1b[31m\r\u2028three")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_an_exception_in_json_is_still_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=True)
    try:
        raise ValueError("broken\nthing")
    except ValueError:
        logging.getLogger("tgi").exception("failed")
    assert "ValueError" in json.loads(stream.getvalue())["exception"]
    assert stream.getvalue().count("\n") == 1


def test_text_lines_show_span_target_and_message(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=False)
    logging.getLogger("tgi.server").info("Success", extra={"span": {"name": "generate", "seed": 7}})
    assert stream.getvalue().endswith("  INFO generate{seed=7}: tgi.server: Success\n")


def test_colour_appears_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = lines(monkeypatch, json_lines=False)
    logging.getLogger("tgi").error("x")
    assert "\x1b" not in plain.getvalue()
    coloured = lines(monkeypatch, json_lines=False, colour=True)
    logging.getLogger("tgi").error("x")
    assert "\x1b[31m" in coloured.getvalue()


def test_a_level_is_for_tgi_and_leaves_other_libraries_at_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=False, level="debug")
    logging.getLogger("tgi.engine").debug("ours")
    logging.getLogger("asyncio").info("theirs")
    assert "ours" in stream.getvalue()
    assert "theirs" not in stream.getvalue()


def test_a_filter_list_names_targets_as_tgi_does() -> None:
    assert log.parse_filter("warn,tgi::server=debug") == {
        "": logging.WARNING,
        "tgi": logging.WARNING,
        "tgi.server": logging.DEBUG,
    }
    assert log.parse_filter("INFO") == {"tgi": logging.INFO}
    assert log.parse_filter("") == {"tgi": logging.INFO}


@pytest.mark.parametrize("level", ["chatty", "tgi=loud", "info,loud"])
def test_an_unknown_level_is_refused_by_name(level: str) -> None:
    with pytest.raises(ConfigError, match="is no log level"):
        log.parse_filter(level)
