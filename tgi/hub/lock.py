"""`tgi.lock`: what every file of a model was, so that another day or another machine gets the same or nothing.

JSON, sorted and indented, so that equal locks are equal bytes:

    {"version": 1, "models": {"owner/name": {"revision": "main", "files": [
        {"path": "config.json", "sha256": "...", "size": 704, "repository": "owner/name", "commit": "..."}]}}}

`repository` and `commit` are null for files that do not come from the hub.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tgi.errors import ConfigError, ModelError
from tgi.hub.digests import SHA256, Digests, sha256_of
from tgi.hub.files import ModelFiles, split_hub_id
from tgi.hub.selection import folder_files
from tgi.hub.watch import Watcher

FILE_NAME = "tgi.lock"
VERSION = 1

_READERS = 4


class LockedFile(msgspec.Struct, frozen=True):
    """One file as it was: `size` in bytes."""

    path: str
    sha256: str
    size: int
    repository: str | None = None
    commit: str | None = None


class LockedModel(msgspec.Struct, frozen=True):
    """All files of a model; `revision` is what was asked for when it was locked."""

    files: tuple[LockedFile, ...]
    revision: str | None = None

    @property
    def commit(self) -> str | None:
        """The one commit of the hub that all files come from."""
        return next((file.commit for file in self.files), None)


class Lock(msgspec.Struct, frozen=True):
    """The content of the file."""

    models: dict[str, LockedModel] = {}
    version: int = VERSION


def read_lock(path: Path) -> Lock:
    """Raises: ConfigError where there is no lock, or none that can be read."""
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError as error:
        raise ConfigError(f"`--locked` needs the lock file `{path}`, which does not exist",
                          hint="write it with `tgi download --lock`, or name it with --lock-file",
                          ) from error  # fmt: skip
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` cannot be read as a lock file: {error}",
                          hint="write it again with `tgi download --lock`") from error  # fmt: skip
    if lock.version != VERSION:
        raise ConfigError(f"`{path}` has version {lock.version}, this tgi reads version {VERSION}",
                          hint="write it again with `tgi download --lock`")  # fmt: skip
    for file in (file for model in lock.models.values() for file in model.files):
        if not SHA256.fullmatch(file.sha256):
            raise ConfigError(f"`{path}` holds no sha256 for `{file.path}`: {file.sha256[:80]!r}",
                              hint="write it again with `tgi download --lock`")  # fmt: skip
    return lock


def locked_model(path: Path, model_id: str) -> LockedModel:
    """The model's part of the lock file. Raises: ConfigError when it has none."""
    lock = read_lock(path)
    if model_id not in lock.models:
        held = ", ".join(f"`{name}`" for name in sorted(lock.models)[:4]) or "nothing"
        raise ConfigError(f"`{path}` does not lock `{model_id}`; it locks {held}",
                          hint=f"add it with `tgi download --lock {model_id}`")  # fmt: skip
    return lock.models[model_id]


def write_lock(path: Path, model_id: str, model: LockedModel) -> None:
    """Put the model into the lock file, beside others that are there, in one step."""
    models = dict(read_lock(path).models) if path.exists() else {}
    models[model_id] = model
    lock = Lock(dict(sorted(models.items())))
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2) + b"\n")
    os.replace(partial, path)


def paths_of(files: ModelFiles) -> list[tuple[str, Path]]:
    """The files that are read when the model is served: their names inside its folder, and where they are."""
    if files.path.is_file():
        return [(files.path.name, files.path)]
    return [(path.relative_to(files.folder).as_posix(), path) for path in folder_files(files.folder)]


def measure(files: ModelFiles, revision: str | None, watcher: Watcher, digests: Digests) -> LockedModel:
    """Read every file of the model, whatever is remembered of it, and say what they are."""
    named = paths_of(files)
    repository = split_hub_id(files.model_id)[0] if files.revision else None
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = list(pool.map(lambda item: _read(item[0], item[1], watcher), named))
    for (_, path), sha256 in zip(named, hashes, strict=True):
        digests.remember(path, sha256)
    digests.save()
    return LockedModel(
        tuple(
            LockedFile(name, sha256, path.stat().st_size, repository, files.revision)
            for (name, path), sha256 in zip(named, hashes, strict=True)
        ),
        revision,
    )


def check(files: ModelFiles, locked: LockedModel, watcher: Watcher, digests: Digests) -> None:
    """Compare every byte of the model with its lock.

    Raises: ModelError (exit 16) naming the first file that differs, with both hashes.
    """
    found = {file.path: file for file in measure(files, None, watcher, digests).files}
    expected = {file.path: file for file in locked.files}
    for name in sorted(found.keys() | expected.keys()):
        drift = _difference(expected.get(name), found.get(name))
        if drift is not None:
            raise ModelError(f"`{name}` of `{files.model_id}` is not what the lock file says: {drift}",
                             hint=f"get the locked files with `tgi cache rm {split_hub_id(files.model_id)[0]}` and "
                             "`tgi download --locked`, or accept these with `tgi download --lock`",
                             exit_code=16)  # fmt: skip


def _difference(expected: LockedFile | None, found: LockedFile | None) -> str | None:
    if found is None:
        return f"expected sha256 {expected.sha256 if expected else '?'}, found no such file"
    if expected is None:
        return f"expected no such file, found sha256 {found.sha256}"
    if found.sha256 != expected.sha256:
        return f"expected sha256 {expected.sha256}, found {found.sha256}"
    return None


def _read(name: str, path: Path, watcher: Watcher) -> str:
    total = path.stat().st_size
    return sha256_of(path, lambda done: watcher.verifying(name, done, total))
