"""Failures are told in two lines that name the value and the next step."""

from __future__ import annotations

import io
import sys

import click
import pytest

from tgi import __version__
from tgi.cli import console
from tgi.errors import ConfigError, ModelError, TgiError


def test_an_error_of_ours_has_its_message_hint_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = console.report(ModelError("no model `x`", hint="try `y`", exit_code=12))
    assert code == 12
    assert capsys.readouterr().err == "error: no model `x`\nhint: try `y`\n"


def test_an_error_without_hint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report(ConfigError("wrong")) == 1
    assert capsys.readouterr().err == "error: wrong\n"


def test_a_bug_is_told_without_traceback_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as bug:
        {}["weights"]
    assert console.report(bug.value) == 1
    plain = capsys.readouterr().err
    console.report(bug.value, debug=True)
    debug = capsys.readouterr().err
    assert "Traceback" not in plain
    assert "`--debug`" in plain
    assert "Traceback" in debug
    assert debug.endswith(plain)


def test_a_file_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report(PermissionError(13, "Permission denied", "/x")) == 1
    assert capsys.readouterr().err.startswith("error: permission denied `/x`\n")


def test_ctrl_c_ends_with_the_shells_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_huge_or_hostile_value_stays_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.report(TgiError("bad `" + "\x1b[2J\n" * 10_000 + "`"))
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert len(text) < 500
    assert "\x1b" not in text


def test_the_nearest_word_is_found_only_if_it_is_near() -> None:
    assert console.nearest("srve", ["serve", "download"]) == "serve"
    assert console.nearest("xyzzy", ["serve", "download"]) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_and_obey_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert console.colours(Terminal())
    assert not console.colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not console.colours(Terminal())
    monkeypatch.setenv("LOG_COLORIZE", "1")
    assert console.colours(io.StringIO())
    monkeypatch.setenv("LOG_COLORIZE", "0")
    monkeypatch.setenv("TERM", "xterm")
    assert not console.colours(Terminal())
    monkeypatch.setenv("LOG_COLORIZE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.colours(Terminal())


def test_the_label_is_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    console.warn("careful")
    assert stream.getvalue() == "\x1b[1;33mwarning:\x1b[0m careful\n"


def test_other_errors_of_click_are_told_in_the_same_style(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.report(click.ClickException("Could not open 'x'.")) == 1
    assert capsys.readouterr().err == "error: could not open `x`\n"


def test_a_server_greets_on_stderr_or_as_a_record(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    console.greet(json_lines=False, quiet=False)
    console.greet(json_lines=False, quiet=True)
    assert capsys.readouterr().err == f"tgi {__version__}\n"
    with caplog.at_level("INFO", logger="tgi.cli"):
        console.greet("tgi launch", json_lines=True, quiet=False)
    assert caplog.messages == [f"tgi launch {__version__}"]


@pytest.mark.parametrize(
    ("error", "hint", "code"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.json"), "check the path", 1),
        (
            PermissionError(13, "Permission denied", "a.json"),
            "check the rights of the file, or choose another place",
            1,
        ),
        (OSError(28, "No space left on device", "a.json"), "free some space, or choose another place", 15),
    ],
)
def test_the_operating_systems_refusals_have_a_next_step(error: OSError, hint: str, code: int) -> None:
    explanation = console.explain(error)
    assert "`a.json`" in explanation.message
    assert (explanation.hint, explanation.exit_code) == (hint, code)
