"""Markdown drawn while it is written.

Blocks that cannot change any more are printed once and scroll away like any other text. Only the block that is still
being written is drawn again and again, by rich's `Live`, and of it no more lines than the screen has: so nothing
flickers, and nothing is missing from the scrollback in the end.
"""

from __future__ import annotations

import itertools
import re
import time
from types import TracebackType

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

_KEPT = "\n\t"
_MARGIN = 2  # lines of the screen left alone: the cursor's own, and one to breathe


def parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough; HTML is text, since a terminal would show nothing of it."""
    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")


def printable(text: str) -> str:
    """`text` without control characters: an answer must not move the cursor or set the window's title."""
    return "".join(c for c in text if c in _KEPT or not (ord(c) < 32 or 127 <= ord(c) < 160))


def rendered(text: str) -> Markdown:
    """Markdown for rich, keeping the author's line ends: models write poems and addresses."""
    # Rich's own parse is replaced, so it gets nothing to parse.
    markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
    markdown.markup = text
    markdown.parsed = parser().parse(text)
    for token in markdown.parsed:
        for child in token.children or []:
            if child.type == "softbreak":
                child.type = "hardbreak"
    return markdown


def blocks(text: str) -> list[str]:
    """The top-level blocks of a Markdown text; joined they are the text."""
    starts = [token.map[0] for token in parser().parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # lines as Markdown counts them; `splitlines` knows more kinds
    cuts = [0, *starts[1:], len(lines)]
    return ["".join(lines[start:end]) for start, end in itertools.pairwise(cuts)]


def settled(text: str) -> int:
    """How many characters of `text` belong to blocks that later text cannot change."""
    whole = text[: text.rfind("\n") + 1]  # a line's meaning is known at its end
    return len(whole) - len(blocks(whole)[-1])


class MarkdownStream:
    """A context manager that draws one answer on a terminal: `show(text so far)` often, `finish(text)` once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._printed = 0  # characters that have been printed for good
        self._started = time.monotonic()

    def __enter__(self) -> MarkdownStream:
        # The first drawing loads highlighters and tables: a quarter of a second that must not delay the first token.
        self._console.render_lines(rendered("```python\n1\n```\n\n|a|\n|-|\n"))
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, text: str, thoughts: str = "") -> None:
        """Draw what there is; before the first text, that something is under way."""
        text = printable(text)
        if not text.strip():
            doing = f"thinking, {len(thoughts.split())} words" if thoughts else "waiting"
            self._live.update(Text(f"{doing}, {time.monotonic() - self._started:.0f} s", style="dim"), refresh=True)
            return
        self._settle(text, self._printed + settled(text[self._printed :]))
        self._live.update(_Block(text[self._printed :], after=self._printed > 0, limited=True), refresh=True)

    def finish(self, text: str) -> None:
        """Print what is left, for good."""
        text = printable(text)
        self._live.update(Text(""), refresh=True)
        self._live.stop()
        self._settle(text, len(text))

    def _settle(self, text: str, end: int) -> None:
        for block in blocks(text[self._printed : end]):
            if block.strip():
                self._console.print(_Block(block, after=self._printed > 0, limited=False))
            self._printed += len(block)


class _Block:
    """Markdown without the blank lines around it, which rich writes or not; `after`: one blank line before it.

    `limited`: only the last lines of it, as many as the screen holds.
    """

    def __init__(self, text: str, *, after: bool, limited: bool) -> None:
        self._markdown = rendered(text)
        self._after = after
        self._limited = limited

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options, pad=False)
        while lines and _blank(lines[0]):
            del lines[0]
        while lines and _blank(lines[-1]):
            del lines[-1]
        if self._after:
            lines.insert(0, [])
        if self._limited:
            lines = lines[-max(1, console.height - _MARGIN) :]
        for line in lines:
            yield from _unpadded(line)
            yield Segment.line()


def _blank(line: list[Segment]) -> bool:
    return not "".join(segment.text for segment in line).strip()


def _unpadded(line: list[Segment]) -> list[Segment]:
    """Without the blanks that fill it up: they would be copied with the text, and leave the cursor past the edge."""
    line = list(line)
    while line:
        text, style, control = line[-1]
        if control or (style and style.bgcolor) or (kept := text.rstrip(" ")) == text:
            break
        line[-1:] = [Segment(kept, style)] if kept else []
    return line
