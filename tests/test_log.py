"""Log lines are whole, parseable and safe to print."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
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


def test_what_is_bound_is_in_every_line_until_it_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=True)
    logger = logging.getLogger("tgi.server")
    token = log.bind(request_id="mine")
    logger.info("inside")
    logger.info("for another", extra={"facts": {"request_id": "theirs"}})
    log.unbind(token)
    logger.info("outside")
    found = [json.loads(line).get("request_id") for line in stream.getvalue().splitlines()]
    assert found == ["mine", "theirs", None]


def test_a_text_line_names_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lines(monkeypatch, json_lines=False)
    token = log.bind(request_id="mine")
    logging.getLogger("tgi").error("refused")
    log.unbind(token)
    assert stream.getvalue().endswith(" ERROR request{request_id=mine}: tgi: refused\n")


class Clock:
    """A clock that stands still until it is told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_flood_of_one_kind_is_cut_short_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(log, "time", clock)
    stream = lines(monkeypatch, json_lines=True)
    logger = logging.getLogger("tgi.server")
    for number in range(1000):
        logger.error("bad request %d", number, extra={"kind": "validation"})
        logger.error("other %d", number, extra={"kind": "overloaded"}) if number < 5 else None
        logger.info("Success")
    clock.now += 1
    logger.error("bad request", extra={"kind": "validation"})
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert sum(message.startswith("bad request ") for message in messages) == 10
    assert sum(message.startswith("other ") for message in messages) == 5
    assert messages.count("Success") == 1000
    assert messages[-2:] == ["990 more messages of kind `validation`", "bad request"]


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
def test_a_bug_is_told_by_its_place_and_in_its_words_only_at_debug(
    monkeypatch: pytest.MonkeyPatch, level: str, told: bool
) -> None:
    stream = lines(monkeypatch, json_lines=True, level=level)
    words = "a client's words"
    try:
        raise KeyError(words)
    except KeyError as error:
        log.unexpected(logging.getLogger("tgi.server"), "unhandled error", error)
    line = json.loads(stream.getvalue().splitlines()[0])
    assert line["message"] == "unhandled error: KeyError"
    assert "test_log.py" in line["exception"]
    assert (words in stream.getvalue()) is told


def test_tgis_targets_mean_ours() -> None:
    assert log.parse_filter("text_generation_router::server=debug,text_generation_launcher=warn") == {
        "tgi": logging.WARNING,
        "tgi.server": logging.DEBUG,
    }
    assert log.parse_filter("info,otel::tracing=trace")["otel.tracing"] == logging.DEBUG


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


def test_a_pipe_that_nobody_reads_holds_nothing_up_and_tells_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, encoding="utf-8") as pipe, os.fdopen(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        log.configure()
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, log.LineHandler)
        for number in range(20_000):
            logging.getLogger("tgi").info("line %d %s", number, "x" * 100)  # waits for ever if writing waits
        # When the pipe is full, and hence where the gaps are, is up to the scheduler; each gap must tell its own size.
        told = number = 0
        while number < 20_000:
            line = pipe.readline()
            if gap := re.search(r" WARN tgi\.log: (\d+) log lines were dropped: nobody read them\n$", line):
                told += int(gap[1])
                number += int(gap[1])
            else:
                assert f" INFO tgi: line {number} x" in line
                number += 1
        assert number == 20_000
        assert told == handler.dropped > 1_000  # the pipe and the queue hold less than half of the lines
        logging.getLogger("tgi").info("afterwards")
        assert pipe.readline().endswith(" INFO tgi: afterwards\n")


def test_a_reader_that_went_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        log.configure(json_lines=True)
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, log.LineHandler)
        for _ in range(3):
            logging.getLogger("tgi").info("x")
        handler.flush()
    assert handler.dropped == 3
    assert capsys.readouterr().err == ""


def test_the_last_words_of_a_program_are_written() -> None:
    program = "import logging; from tgi import log; log.configure(); logging.getLogger('tgi').error('x' * 500_000)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.endswith("x" * 1000 + "\n")
    assert len(done.stderr) > 500_000


def test_a_full_pipe_does_not_keep_a_program_from_ending() -> None:
    program = "import logging; from tgi import log; log.configure(); logging.getLogger('tgi').error('x' * 500_000)"
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    assert child.stderr is not None
    with child.stderr:
        assert child.wait(timeout=60) == 0
