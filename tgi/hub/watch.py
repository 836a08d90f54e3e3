"""What a download tells while it runs, and who listens."""

from __future__ import annotations

import threading
from typing import Protocol

from tgi.hub.selection import Plan, PlannedFile


class Progress(Protocol):
    """Told how far a download is; called often, from any thread."""

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """`done_bytes` of `total_bytes` of `what` are here; the total is None while it is unknown."""


class Watcher:
    """A `Progress` that is told more. Every method may be called from any thread, and does nothing here."""

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """How far something is that has no plan: a wheel."""

    def planned(self, plan: Plan) -> None:
        """These files are going to be fetched, but for those that are here."""

    def advanced(self, file: PlannedFile, done_bytes: int) -> None:
        """So much of a file is here."""

    def resumed(self, file: PlannedFile, done_bytes: int) -> None:
        """A file is going on where an interrupted download left it."""

    def retrying(self, file: PlannedFile, reason: str) -> None:
        """The connection broke, or the hub is busy: a file is asked for again."""

    def verifying(self, path: str, done_bytes: int, total_bytes: int) -> None:
        """A file that is here is being read to compare its hash."""

    def verified(self, file: PlannedFile) -> None:
        """A file is whole, and its checksum is what the hub promised."""


def watcher(progress: Progress) -> Watcher:
    """`progress` itself if it wants to know everything; else one that tells it the sum over all files."""
    return progress if isinstance(progress, Watcher) else _Sum(progress)


class _Sum(Watcher):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._done: dict[str, int] = {}
        self._told = -1

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        self._progress(what, done_bytes, total_bytes)

    def planned(self, plan: Plan) -> None:
        with self._lock:
            self._plan = plan
            self._done = {file.path: file.present for file in plan.files}
            self._told = -1
        self._tell()

    def advanced(self, file: PlannedFile, done_bytes: int) -> None:
        with self._lock:
            self._done[file.path] = done_bytes
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            done = sum(self._done.values())
            if self._plan is not None and done > self._told:  # a file that starts again must not move the bar back
                self._told = done
                self._progress(self._plan.model_id, done, self._plan.total_bytes)
