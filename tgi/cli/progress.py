"""How far a download is: bars on a terminal, a plain line now and then elsewhere, events for programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tgi.hub.selection import Plan, PlannedFile
from tgi.hub.watch import Watcher

LINE_INTERVAL_S = 2.0
EVENT_INTERVAL_S = 0.2
_NEVER = float("inf")
_SMALL_BYTES = 256 << 10  # files up to here are gone before their bar is seen
_NAME_LENGTH = 34  # characters of a file's name beside its bar: 80 columns hold both


@contextmanager
def download_progress(console: Console, *, draw: bool = True) -> Iterator[Watcher]:
    """A watcher for `tgi.hub` that shows on `console` what it is told; `draw` False keeps silent.

    Nothing appears until it is called: a model that is on this machine already shows no bar.
    """
    if not draw:
        yield Watcher()
    elif console.is_terminal and not console.is_dumb_terminal:
        console.soft_wrap = False  # a bar that is wider than the terminal must be cut, or its old lines stay
        bar = _bar(console)
        try:
            yield _Bars(bar, console)
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


def percent(done: int, total: int) -> int:
    """Whole percents, rounded down: 100 means all."""
    return 100 * done // max(1, total)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(binary_units=True),
        TransferSpeedColumn(), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=True, expand=True)


class _Bars(Watcher):
    """One bar for everything, and one for each file on its way."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._lock = threading.RLock()
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._total: TaskID | None = None
        self._tick = "\u2713" if (console.encoding or "").lower().startswith("utf") else "ok"

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        self._show(what, done_bytes, total_bytes)

    def planned(self, plan: Plan) -> None:
        with self._lock:
            self._progress.start()
            for task in list(self._progress.task_ids):
                self._progress.remove_task(task)
            self._tasks, self._done = {}, {file.path: file.present for file in plan.files}
            text = f"[bold]{escape(_short(plan.model_id))}[/]"
            self._total = self._progress.add_task(text, total=plan.total_bytes, completed=sum(self._done.values()))

    def advanced(self, file: PlannedFile, done_bytes: int) -> None:
        with self._lock:
            if file.size > _SMALL_BYTES:
                self._show(file.path, done_bytes, file.size)
            self._done[file.path] = done_bytes
            if self._total is not None:
                self._progress.update(self._total, completed=sum(self._done.values()))

    def resumed(self, file: PlannedFile, done_bytes: int) -> None:
        self._say(f"resumed at {percent(done_bytes, file.size)} %: {file.path}")

    def retrying(self, file: PlannedFile, reason: str) -> None:
        self._say(f"trying again: {file.path}: {reason}")

    def verifying(self, path: str, done_bytes: int, total_bytes: int) -> None:
        self._show(f"verifying {path}", done_bytes, total_bytes)

    def verified(self, file: PlannedFile) -> None:
        with self._lock:
            task = self._tasks.pop(file.path, None)
            if task is not None:
                self._progress.remove_task(task)
        self._say(f"{self._tick} verified {file.path} ({size(file.size)})")

    def _show(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        with self._lock:
            if what not in self._tasks:
                self._progress.start()
                self._tasks[what] = self._progress.add_task(escape(_short(what)), total=total_bytes)
            self._progress.update(self._tasks[what], completed=done_bytes, total=total_bytes)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)


class _Lines(Watcher):
    """One line at the start, one every other second, one at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._plan: Plan | None = None
        self._done: dict[str, int] = {}

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        self._line(f"downloading {what}", done_bytes, total_bytes)

    def planned(self, plan: Plan) -> None:
        with self._lock:
            self._plan, self._done = plan, {file.path: file.present for file in plan.files}
            at = f" @ {plan.commit[:12]}" if plan.commit else ""
            missing = sum(not file.is_here for file in plan.files)
        count = f"{missing} file{'s' if missing != 1 else ''}"
        self._say(f"{plan.model_id}{at}: {count}, {size(plan.missing_bytes)} to download")

    def advanced(self, file: PlannedFile, done_bytes: int) -> None:
        with self._lock:
            plan = self._plan
            self._done[file.path] = done_bytes
            done = sum(self._done.values())
        if plan is not None:
            self._line(f"downloading {plan.model_id}", done, plan.total_bytes)

    def resumed(self, file: PlannedFile, done_bytes: int) -> None:
        self._say(f"resumed at {percent(done_bytes, file.size)} %: {file.path}")

    def retrying(self, file: PlannedFile, reason: str) -> None:
        self._say(f"trying again: {file.path}: {reason}")

    def verifying(self, path: str, done_bytes: int, total_bytes: int) -> None:
        self._line(f"verifying {path}", done_bytes, total_bytes)

    def verified(self, file: PlannedFile) -> None:
        self._say(f"verified {file.path} ({size(file.size)})")

    def _line(self, text: str, done_bytes: int, total_bytes: int | None) -> None:
        with self._lock:
            now, due = time.monotonic(), self._next.get(text, 0.0)
            ended = total_bytes is not None and done_bytes >= total_bytes
            if now < due and not (ended and due < _NEVER):
                return
            self._next[text] = _NEVER if ended else now + LINE_INTERVAL_S
        known = f" of {size(total_bytes)} ({percent(done_bytes, total_bytes)} %)" if total_bytes else ""
        self._say(f"{text}: {size(done_bytes)}{known}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)


class Events(Watcher):
    """Events for programs: one JSON object a line, as docs/download.md lists them."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._plan: Plan | None = None
        self._done: dict[str, int] = {}

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        self._progress(what, done_bytes, total_bytes, done_bytes, total_bytes)

    def planned(self, plan: Plan) -> None:
        with self._lock:
            self._plan, self._done = plan, {file.path: file.present for file in plan.files}
        self.tell("plan", **plan_facts(plan), dry_run=False)

    def advanced(self, file: PlannedFile, done_bytes: int) -> None:
        with self._lock:
            self._done[file.path] = done_bytes
            all_done, total = sum(self._done.values()), self._plan.total_bytes if self._plan else None
        self._progress(file.path, done_bytes, file.size, all_done, total)

    def resumed(self, file: PlannedFile, done_bytes: int) -> None:
        self.tell("resumed", path=file.path, done_bytes=done_bytes, total_bytes=file.size,
                  percent=percent(done_bytes, file.size))  # fmt: skip

    def retrying(self, file: PlannedFile, reason: str) -> None:
        self.tell("retry", path=file.path, reason=reason)

    def verifying(self, path: str, done_bytes: int, total_bytes: int) -> None:
        if self._is_due(f"verify {path}", done_bytes, total_bytes):
            self.tell("verifying", path=path, done_bytes=done_bytes, total_bytes=total_bytes)

    def verified(self, file: PlannedFile) -> None:
        self.tell("verified", path=file.path, size=file.size, sha256=file.sha256)

    def tell(self, event: str, **facts: Any) -> None:
        """Write one event."""
        line = json.dumps({"event": event, **facts}, ensure_ascii=False)
        with self._lock:
            self._write(line)

    def _progress(self, path: str, done: int, total: int | None, all_done: int, all_total: int | None) -> None:
        if self._is_due(path, done, total):
            self.tell("progress", path=path, done_bytes=done, total_bytes=total, model_done_bytes=all_done,
                      model_total_bytes=all_total)  # fmt: skip

    def _is_due(self, what: str, done: int, total: int | None) -> bool:
        """Often enough to draw a bar, seldom enough to read; the last one always, once."""
        with self._lock:
            now, due = self._clock(), self._next.get(what, 0.0)
            ended = total is not None and done >= total
            if due == _NEVER or (now < due and not ended):
                return False
            self._next[what] = _NEVER if ended else now + EVENT_INTERVAL_S
            return True


def plan_facts(plan: Plan) -> dict[str, Any]:
    """A plan as an event tells it."""
    return {
        "model_id": plan.model_id, "repository": plan.repository, "revision": plan.revision, "commit": plan.commit,
        "files": [
            {"path": file.path, "size": file.size, "present_bytes": file.present, "sha256": file.sha256}
            for file in plan.files
        ],
        "total_bytes": plan.total_bytes, "download_bytes": plan.missing_bytes,
    }  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"...{name[3 - _NAME_LENGTH :]}"
