"""Questions of several lines, and the history's file."""

from __future__ import annotations

import readline
from collections.abc import Iterator
from pathlib import Path

import pytest

from tgi.chat.prompt import Prompt


def prompt(*lines: str, history: Path = Path("unused")) -> Prompt:
    typed: Iterator[str] = iter(lines)
    return Prompt(history, ("/save", "/system", "/help"), colour=False, ask=lambda _: next(typed))


@pytest.mark.parametrize(
    ("lines", "question"),
    [
        (["  hello "], "hello"),
        (["one \\", "two\\", "three"], "one \ntwo\nthree"),
        (['"""one', "", '  two"""'], "one\n\n  two"),
        (['"""', "one", '"""'], "one"),
        (['"""one line"""'], "one line"),
        (["pasted\nlines"], "pasted\nlines"),
    ],
)
def test_lines_that_belong_together_are_one_question(lines: list[str], question: str) -> None:
    assert prompt(*lines).question() == question


def test_the_history_is_kept_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    first = prompt(history=path)
    first.open()
    readline.clear_history()
    readline.add_history("what I asked")
    first.close()
    assert path.stat().st_mode & 0o777 == 0o600
    readline.clear_history()
    prompt(history=path).open()
    assert readline.get_history_item(1) == "what I asked"


def test_a_history_that_cannot_be_kept_stops_nobody(tmp_path: Path) -> None:
    blocked = prompt(history=tmp_path / "file" / "history")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    blocked.open()
    blocked.close()


def test_tab_completes_commands_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talk.json").touch()
    monkeypatch.setattr(readline, "get_line_buffer", lambda: "/s")
    complete = prompt()._complete
    assert [complete("/s", state) for state in range(3)] == ["/save ", "/system ", None]
    monkeypatch.setattr(readline, "get_line_buffer", lambda: f"/load {tmp_path}/ta")
    assert complete(f"{tmp_path}/ta", 0) == f"{tmp_path}/talk.json"
    monkeypatch.setattr(readline, "get_line_buffer", lambda: "hel")
    assert complete("hel", 0) is None
