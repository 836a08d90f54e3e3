"""How far a download is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tgi.hub.wheel import Progress as Report

LINE_INTERVAL_S = 2.0
_NEVER = float("inf")


@contextmanager
def download_progress(console: Console, *, draw: bool = True) -> Iterator[Report]:
    """A `progress(what, done, total)` for `tgi.hub`, in bytes; `draw` False keeps silent.

    Nothing appears until it is called: a model that is on this machine already shows no bar.
    """
    if not draw:
        yield _silent
    elif console.is_terminal and not console.is_dumb_terminal:
        bar = _bar(console)
        try:
            yield _Bar(bar)
        finally:
            bar.stop()
    else:
        yield _Lines(console)


def size(count: int) -> str:
    """`count` bytes for people: `91 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _silent(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Nobody watches."""


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(binary_units=True),
        TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=True)


class _Bar:
    """One bar for each thing that is downloaded."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        if what not in self._tasks:
            self._progress.start()
            self._tasks[what] = self._progress.add_task(what, total=total_bytes)
        self._progress.update(self._tasks[what], completed=done_bytes, total=total_bytes)


class _Lines:
    """One line at the start, one every other second, one at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next: dict[str, float] = {}

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        now, due = time.monotonic(), self._next.get(what, 0.0)
        ended = total_bytes is not None and done_bytes >= total_bytes
        if now >= due or (ended and due < _NEVER):
            known = f" of {size(total_bytes)} ({100 * done_bytes // max(1, total_bytes)} %)" if total_bytes else ""
            self._console.print(f"downloading {what}: {size(done_bytes)}{known}", markup=False)
            self._next[what] = _NEVER if ended else now + LINE_INTERVAL_S
