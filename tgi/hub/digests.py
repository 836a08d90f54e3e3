"""Checksums of files, and what is remembered of them: a model's weights take minutes to read, so once is enough."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_ID = re.compile(r"[0-9a-f]{40}")
FILE_NAME = "digests.json"

_READ_BYTES = 1 << 20

Read = Callable[[int], None]


class _Known(msgspec.Struct, array_like=True):
    size: int
    modified_ns: int
    sha256: str


def sha256_of(path: Path, read: Read | None = None) -> str:
    """The file's SHA-256; `read` is told how many bytes are done."""
    return _digest(path, hashlib.sha256(), read)


def git_id_of(path: Path) -> str:
    """The name git gives to the file's content: the hub's checksum of files that are not in LFS."""
    start = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    return _digest(path, start, None)


def sha1_of(path: Path) -> str:
    """The SHA-1 of the content alone."""
    return _digest(path, hashlib.sha1(usedforsecurity=False), None)


class Digests:
    """SHA-256 by file, as long as size and time of change are the same; kept in one small file of our cache."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._known: dict[str, _Known] = {}
        with suppress(OSError, msgspec.MsgspecError):
            self._known = msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Known])

    def get(self, path: Path) -> str | None:
        """What is known of a file, without reading it."""
        real = path.resolve()
        known = self._known.get(str(real))
        try:
            status = real.stat()
        except OSError:
            return None
        same = known is not None and (known.size, known.modified_ns) == (status.st_size, status.st_mtime_ns)
        return known.sha256 if known is not None and same else None

    def remember(self, path: Path, sha256: str) -> None:
        """Note what a file's digest is; `save` keeps it."""
        real = path.resolve()
        status = real.stat()
        self._known[str(real)] = _Known(status.st_size, status.st_mtime_ns, sha256)

    def save(self) -> None:
        """Keep what is known of files that still exist. A cache that cannot be written is no failure."""
        kept = {path: known for path, known in sorted(self._known.items()) if os.path.exists(path)}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1))
            os.replace(partial, self._file)


def _digest(path: Path, digest: hashlib._Hash, read: Read | None) -> str:
    done = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if read is not None:
                read(done)
    return digest.hexdigest()
