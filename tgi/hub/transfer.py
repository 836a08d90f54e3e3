"""Fetches the files of a plan into the hub's cache: several at once, going on where an interrupted download ended.

The hub's library moves the bytes. What it does not do is done here: it drops a partial file when a download fails (its
newer versions), and it compares no checksum. A partial file is `blobs/<checksum>.incomplete`, as in its older versions,
so that its own cache commands know what it is.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]
from tqdm import tqdm

from tgi.errors import ModelError
from tgi.hub.digests import Digests, git_id_of, sha1_of, sha256_of
from tgi.hub.faults import HTTP_ERROR, first_line, status_of
from tgi.hub.selection import Plan, PlannedFile
from tgi.hub.watch import Watcher

WORKERS = 8  # files at once
TRIES = 5  # without a byte in between, as in TGI
BACK_OFF_S = 1.0  # before the second try; doubles with each
REPLY_TIMEOUT_S = 10.0

_CHUNK_BYTES = 64 << 10  # what a dropped connection can lose; the library's own are 10 MiB
_BUSY = (408, 429, 500, 502, 503, 504)
_LEAVE_S = 1.0  # what a file that is being fetched gets to notice that we stop


class Stopped(Exception):
    """The download is to end: raised inside a transfer."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A repository's place in the hub's cache, and how to ask for its files."""

    cache: Path
    repository: str
    commit: str
    token: str | None
    endpoint: str | None

    @property
    def folder(self) -> Path:
        """Where the library keeps all revisions of the repository."""
        return self.cache / f"models--{self.repository.replace('/', '--')}"

    @property
    def snapshot(self) -> Path:
        """The folder of this commit."""
        return self.folder / "snapshots" / self.commit

    def blob(self, key: str) -> Path:
        """Where the content of that checksum lies."""
        return self.folder / "blobs" / key

    def partial(self, key: str) -> Path:
        """Where it grows."""
        return self.folder / "blobs" / f"{key}.incomplete"


def fetch_all(plan: Plan, storage: Storage, watcher: Watcher, digests: Digests) -> None:
    """Fetch every file of the plan that is not here; small ones first, so that weights mean that all else is there.

    Raises: whatever the hub's library does; ModelError (exit 16) naming a file that is not what the hub promised;
            KeyboardInterrupt as soon as no transfer writes any more: partial files stay.
    """
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
    missing = [file for file in plan.files if not file.is_here or not (storage.snapshot / file.path).exists()]
    weights = [file for file in missing if not file.path.endswith((".json", ".jinja"))]
    for group in ([file for file in missing if file not in weights], weights):
        _Crew(storage, watcher, digests).fetch(group)


class _Crew:
    """Threads that share a list of files. The first failure stops all."""

    def __init__(self, storage: Storage, watcher: Watcher, digests: Digests) -> None:
        self._storage = storage
        self._watcher = watcher
        self._digests = digests
        self._stop = threading.Event()
        self._faults: list[BaseException] = []

    def fetch(self, files: list[PlannedFile]) -> None:
        waiting: queue.SimpleQueue[PlannedFile] = queue.SimpleQueue()
        for file in files:
            waiting.put(file)
        # Daemons: a hub that says nothing must not keep the process from ending.
        crew = [threading.Thread(target=self._work, args=(waiting,), daemon=True) for _ in files[:WORKERS]]
        for thread in crew:
            thread.start()
        try:
            for thread in crew:
                while thread.is_alive():
                    thread.join(0.05)  # in slices: a signal's handler runs between them
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _LEAVE_S
            for thread in crew:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise
        if self._faults:
            raise self._faults[0]

    def _work(self, waiting: queue.SimpleQueue[PlannedFile]) -> None:
        while not self._stop.is_set():
            try:
                file = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                _File(file, self._storage, self._watcher, self._stop).fetch(self._digests)
            except Stopped:
                return
            except BaseException as error:
                self._faults.append(error)
                self._stop.set()


class _File:
    """One file on its way."""

    def __init__(self, file: PlannedFile, storage: Storage, watcher: Watcher, stop: threading.Event) -> None:
        self._file = file
        self._storage = storage
        self._watcher = watcher
        self._stop = stop

    def fetch(self, digests: Digests) -> None:
        file, storage = self._file, self._storage
        if file.key is not None and 0 < file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
            self._fetch_blob(file.key)
        path = Path(hf_hub_download(
            storage.repository, file.path, revision=storage.commit, cache_dir=storage.cache, token=storage.token,
            endpoint=storage.endpoint, etag_timeout=REPLY_TIMEOUT_S, tqdm_class=self._bar(0),
        ))  # fmt: skip
        found = sha256_of(path)
        if file.sha256 is not None and found != file.sha256:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise self._corrupt(file.sha256, found)
        digests.remember(path, found)
        self._watcher.advanced(file, file.size)
        self._watcher.verified(replace(file, sha256=found))

    def _fetch_blob(self, key: str) -> None:
        """Bring the content under its checksum into the cache, unless it is there."""
        blob, partial = self._storage.blob(key), self._storage.partial(key)
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = self._storage.cache / ".locks" / self._storage.folder.name / f"{key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists():
                return
            resumed = partial.stat().st_size if partial.exists() else 0
            if resumed > self._file.size:
                partial.unlink()
                resumed = 0
            if resumed:
                self._watcher.resumed(self._file, resumed)
            self._transfer(partial)
            fault = self._fault(partial)
            if fault is not None and resumed:  # what was here may have been wrong
                partial.unlink()
                self._watcher.retrying(self._file, "what was here already was damaged")
                self._transfer(partial)
                fault = self._fault(partial)
            if fault is not None:
                partial.unlink()
                raise fault
            os.chmod(partial, 0o666 & ~_umask(blob.parent))
            os.replace(partial, blob)

    def _transfer(self, partial: Path) -> None:
        """Append to the partial file until it is whole; give up after several tries that brought nothing."""
        url = hf_hub_url(self._storage.repository, self._file.path, revision=self._storage.commit,
                         endpoint=self._storage.endpoint)  # fmt: skip
        # A file that the hub compresses on the way has no bytes to go on from.
        headers = {**build_hf_headers(token=self._storage.token), "Accept-Encoding": "identity"}
        tries = 1
        while True:
            with partial.open("ab") as target:
                start = target.tell()
                try:
                    http_get(url, target, resume_size=start, headers=headers, expected_size=self._file.size,
                             displayed_filename=self._file.path, tqdm_class=self._bar(start))  # fmt: skip
                    return
                except (OSError, HTTP_ERROR) as error:
                    target.flush()
                    moved = target.seek(0, os.SEEK_END) > start
                    if status_of(error) == 416:  # the partial file is no beginning of this one
                        target.truncate(0)
                    tries = 1 if moved else tries + 1
                    if tries > TRIES or not _may_pass(error):
                        raise
                    self._watcher.retrying(self._file, first_line(error))
            if self._stop.wait(BACK_OFF_S * 2 ** (tries - 1) if not moved else BACK_OFF_S):
                raise Stopped

    def _fault(self, partial: Path) -> ModelError | None:
        """What is wrong with a file that is as long as it should be."""
        if self._file.sha256 is not None:
            found = sha256_of(partial)
            return None if found == self._file.sha256 else self._corrupt(self._file.sha256, found)
        if self._file.git_id is not None:
            found = git_id_of(partial)
            # Some mirrors name files by the SHA-1 of their content alone.
            same = self._file.git_id in (found, sha1_of(partial))
            return None if same else self._corrupt(self._file.git_id, found)
        return None

    def _corrupt(self, expected: str, found: str) -> ModelError:
        return ModelError(f"`{self._file.path}` of `{self._storage.repository}` is corrupt: the hub promises "
                          f"{_kind(expected)} {expected}, what came has {found}; it was removed",
                          hint="download it again; if it happens again, something on the way changes files",
                          exit_code=16)  # fmt: skip

    def _bar(self, start: int) -> type[Any]:
        """A progress bar class that draws nothing, and reports to the watcher; it also ends a transfer."""
        file, watcher, stop = self._file, self._watcher, self._stop

        class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
            monitor_interval = 0  # no thread that watches over redrawing

            def __init__(self, *arguments: Any, **settings: Any) -> None:
                settings |= {"file": io.StringIO(), "disable": False}
                settings.pop("name", None)
                super().__init__(*arguments, **settings)

            def display(self, *arguments: Any, **settings: Any) -> None:
                """Nothing is drawn."""

            def update(self, n: float | None = 1) -> Any:
                if stop.is_set():
                    raise Stopped
                moved = super().update(n)
                if self.unit == "B":
                    watcher.advanced(file, min(int(self.n), file.size))
                return moved

        return Bar


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if status is not None:
        return status in _BUSY or status == 416
    return not (isinstance(error, OSError) and error.errno is not None)


def _kind(checksum: str) -> str:
    return "sha256" if len(checksum) == 64 else "git id"


def _umask(folder: Path) -> int:
    """The user's mask, found without setting it, which other threads would feel."""
    probe = folder / f".mode-{os.getpid()}-{threading.get_ident()}"
    probe.touch()
    try:
        return 0o666 & ~probe.stat().st_mode
    finally:
        probe.unlink()
