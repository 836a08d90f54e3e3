"""Markdown that is drawn while it is written ends as if it had been drawn at once."""

from __future__ import annotations

import io

import pyte
import pytest
from rich.console import Console

from tgi.chat.markdown import MarkdownStream, printable, settled

PARAGRAPH = "Lighthouses are *tall* towers that tell ships where the coast is, by day and night, in any weather."
DOCUMENT = "\n\n".join([
    "# Title", PARAGRAPH, "1. one\n2. two\n   - inner", "```python\nx = 1\n\ny = 2\n```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "<div>kept</div>", "first line\nsecond line", *[PARAGRAPH] * 6, "> quoted", "the end",
])  # fmt: skip


def drawn(text: str, size: int, *, rows: int = 24) -> str:
    """The scrollback and the screen after `text` came in pieces of `size` characters."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, height=rows, color_system="truecolor")
    with MarkdownStream(console) as stream:
        for end in range(0, len(text), size):
            stream.show(text[:end])
        stream.finish(text)
    screen = pyte.HistoryScreen(60, rows, history=1000)
    pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    above = ["".join(line[x].data for x in range(60)) for line in screen.history.top]
    return "\n".join(line.rstrip() for line in [*above, *screen.display]).rstrip()


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("rows", [5, 24])
def test_pieces_end_as_the_whole_does(size: int, rows: int) -> None:
    text = drawn(DOCUMENT, size, rows=rows)
    assert text == drawn(DOCUMENT, len(DOCUMENT), rows=200)
    for words in ("Title", "two", "y = 2", "<div>kept</div>", "first line\nsecond line", "quoted", "the end"):
        assert words in text
    assert "\n\n\n" not in text


def test_a_block_longer_than_the_screen_is_complete_in_the_scrollback() -> None:
    code = "```\n" + "\n".join(f"line {number}" for number in range(100)) + "\n```"
    text = drawn(code, 10, rows=10)
    assert [line.strip() for line in text.splitlines()] == [f"line {number}" for number in range(100)]


def test_only_blocks_that_cannot_change_are_settled() -> None:
    assert settled("one\n\ntwo") == 0  # two may still become part of something else
    assert settled("one\n\ntwo\n") == len("one\n\n")
    assert settled("- a\n\n- b\n") == 0  # one list
    assert settled("text\n\n```\ncode\n\nmore\n") == len("text\n\n")


def test_control_characters_reach_no_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\r\x9bc\n\td") == "a]0;titlebc\n\td"


def test_before_the_first_text_something_is_seen_to_happen() -> None:
    out = io.StringIO()
    with MarkdownStream(Console(file=out, force_terminal=True, width=60)) as stream:
        stream.show("")
        stream.show("", "some thoughts")
    assert "waiting" in out.getvalue()
    assert "thinking, 2 words" in out.getvalue()
