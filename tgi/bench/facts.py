"""What a result has to say of itself to be worth something: versions, the command, the hash of the model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tgi import __version__

_PACKAGES = ("aiohttp", "msgspec", "numpy", "uvloop")
_SECRETS = ("--api-key",)
MASK = "HIDDEN"
_WEIGHTS = (".safetensors", ".gguf")
_CHUNK = 1 << 22


def now() -> str:
    """The moment in ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Of tgi, Python, and the packages that take part in measuring."""
    found = {"tgi": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command(words: Sequence[str]) -> str:
    """A command line to be copied, without the secrets in it."""
    shown: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide:
            word, hide = MASK, False
        elif name in _SECRETS and equals:
            word = f"{name}={MASK}"
        else:
            hide = word in _SECRETS
        shown.append(word)
    return shlex.join(shown)


def model_hash(path: Path) -> str:
    """`sha256:` of a model's weights: of the one file, or over the names and hashes of several, in order of names.

    The hub's cache knows the hash of a large file: its blob is named after it.
    """
    if path.is_file():
        return f"sha256:{_file_hash(path)}"
    files = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
    if len(files) == 1:
        return f"sha256:{_file_hash(files[0])}"
    together = hashlib.sha256()
    for file in files:
        together.update(f"{file.name} {_file_hash(file)}\n".encode())
    return f"sha256:{together.hexdigest()}"


def _file_hash(path: Path) -> str:
    blob = path.resolve().name
    if path.is_symlink() and len(blob) == 64 and all(digit in "0123456789abcdef" for digit in blob):
        return blob
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
