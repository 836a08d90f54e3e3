"""Text lands where it is put, and only rows that changed are written."""

from __future__ import annotations

import pyte

from tgi.bench.screen_canvas import BOLD, RED, Canvas, changes, narrow


def test_text_is_cut_at_the_edges() -> None:
    canvas = Canvas(6, 2)
    canvas.text(2, 0, "longer")
    canvas.text(0, 1, "abcdef", room=3)
    canvas.text(0, 5, "below")
    canvas.text(9, 0, "beside")
    assert canvas.rows(colour=False) == ["  lon…", "ab…   "]


def test_wide_and_invisible_characters_cannot_shift_a_row() -> None:
    assert narrow("a漢\x1b[e\u0301é") == "a??[e?é"
    canvas = Canvas(5, 1)
    canvas.text(0, 0, "漢字x")
    assert canvas.rows(colour=True) == ["??x  "]


def test_without_colours_only_weight_is_left() -> None:
    canvas = Canvas(3, 1)
    canvas.text(0, 0, "a", RED)
    canvas.text(1, 0, "b", f"1;{RED}")
    canvas.text(2, 0, "c", BOLD)
    assert canvas.rows(colour=True) == ["\x1b[31ma\x1b[0m\x1b[1;31mb\x1b[0m\x1b[1mc\x1b[0m"]
    assert canvas.rows(colour=False) == ["a\x1b[1mb\x1b[0m\x1b[1mc\x1b[0m"]


def test_changes_turn_one_screen_into_the_next() -> None:
    screen = pyte.Screen(4, 3)
    stream = pyte.Stream(screen)
    stream.feed(changes([], ["one ", "two ", "    "]))
    update = changes(["one ", "two ", "    "], ["one ", "2   ", "    "])
    stream.feed(update)
    assert screen.display == ["one ", "2   ", "    "]
    assert "one" not in update
    assert changes(["a"], ["a"]) == ""
