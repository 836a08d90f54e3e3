"""A screenful of characters, and the bytes that turn the last one into it.

Rich would draw the same in 20 ms; a benchmark's own screen must not be what it measures. Here a frame costs a tenth of
that: text goes into rows by slices, and only rows that changed are written.
"""

from __future__ import annotations

import unicodedata
from itertools import groupby
from operator import itemgetter

PLAIN, BOLD, DIM, REVERSE = "", "1", "2", "7"
RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "31", "32", "33", "34", "35", "36"
HUES = (CYAN, MAGENTA, YELLOW, GREEN, BLUE, RED)
_COLOURS = {*HUES, *(f"1;{hue}" for hue in HUES)}


class Canvas:
    """`height` rows of `width` characters, each with a style (the number of an ANSI attribute)."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._characters = [[" "] * width for _ in range(height)]
        self._styles = [[PLAIN] * width for _ in range(height)]

    def text(self, x: int, y: int, words: str, style: str = PLAIN, *, room: int | None = None) -> None:
        """Write within one row; what does not fit into the canvas, or into `room` columns, is cut off."""
        if not 0 <= y < self.height or x >= self.width or x < 0:
            return
        room = min(self.width - x, self.width if room is None else max(0, room))
        words = words if words.isascii() and words.isprintable() else narrow(words)
        words = words if len(words) <= room else words[: max(0, room - 1)] + "…"[:room]
        end = x + len(words)
        self._characters[y][x:end] = words
        self._styles[y][x:end] = [style] * len(words)

    def right(self, x: int, y: int, words: str, style: str = PLAIN) -> None:
        """Write so that it ends before column `x`."""
        self.text(max(0, x - len(words)), y, words, style)

    def box(self, x: int, y: int, width: int, height: int, title: str) -> None:
        """A frame with a title in its upper edge."""
        if width < 2 or height < 2:
            return
        self.text(x, y, "╭" + "─" * (width - 2) + "╮", DIM)
        for row in range(y + 1, y + height - 1):
            self.text(x, row, "│", DIM)
            self.text(x + width - 1, row, "│", DIM)
        self.text(x, y + height - 1, "╰" + "─" * (width - 2) + "╯", DIM)
        if title and width > 6:
            self.text(x + 2, y, f" {title[: width - 6]} ", BOLD)

    def rows(self, *, colour: bool) -> list[str]:
        """Each row as the bytes of a terminal: every run of a style is set and taken back."""
        return [
            "".join(characters) if not any(styles) else _row(characters, styles, colour)
            for characters, styles in zip(self._characters, self._styles, strict=True)
        ]


def narrow(words: str) -> str:
    """`words` with everything replaced that would not take exactly one column."""
    return "".join(
        c if c.isprintable() and not unicodedata.combining(c) and unicodedata.east_asian_width(c) not in "WF" else "?"
        for c in words
    )


def changes(before: list[str], rows: list[str]) -> str:
    """What to write on a terminal that shows `before`, so that it shows `rows`; of another height: all of it."""
    fresh = len(before) != len(rows)
    moves = [
        f"\x1b[{number};1H{row}"
        for number, row in enumerate(rows, 1)
        if fresh or row != before[number - 1]
    ]  # fmt: skip
    # Terminals that know "synchronized output" (2026) show all of it at once; others ignore the marks.
    return "".join(["\x1b[?2026h", "\x1b[2J" if fresh else "", *moves, "\x1b[?2026l"]) if moves else ""


def _row(characters: list[str], styles: list[str], colour: bool) -> str:
    parts = []
    for style, run in groupby(zip(styles, characters, strict=True), key=itemgetter(0)):
        words = "".join(character for _, character in run)
        if not colour and style in _COLOURS:
            style = BOLD if style.startswith("1;") else PLAIN
        parts.append(f"\x1b[{style}m{words}\x1b[0m" if style else words)
    return "".join(parts)
