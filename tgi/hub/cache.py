"""What is kept on this machine: the hub's cache and our own, listed, removed, and compared with its checksums."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from tgi.hub.digests import GIT_ID, SHA256, Digests, git_id_of, sha256_of
from tgi.hub.download import DEFAULT_MODEL_ID, HubSettings
from tgi.hub.files import base_of, cached_ids, is_complete
from tgi.hub.watch import Watcher

HUB, OWN = "hub", "tgi"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One revision of a model: `size` in bytes, `last_used` in seconds since 1970.

    `source` tells which cache; `state` is `complete`, `part` (an adapter or draft heads), or `incomplete`.
    """

    model_id: str
    source: str
    revision: str | None
    refs: tuple[str, ...]
    size: int
    num_files: int
    last_used: float | None
    path: Path
    state: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one file: `ok`, `corrupt`, `missing`, or `unchecked` where nothing says what it should be."""

    model: CachedModel
    name: str
    status: str
    expected: str | None = None
    found: str | None = None


def scan(cache: Path, settings: HubSettings) -> list[CachedModel]:
    """All models of both caches, by id."""
    found = [*_scan_hub(cache), *_scan_own(settings)]
    return sorted(found, key=lambda model: (model.model_id.lower(), model.source, model.revision or ""))


def remove(models: list[CachedModel], cache: Path) -> int:
    """Remove revisions from their caches, and what no other revision needs. Returns: bytes freed."""
    freed = 0
    for model_id in {model.model_id for model in models if model.source == HUB}:
        folder = _storage(cache, model_id)
        before = _disk_size(folder)
        doomed = [model.revision for model in models if model.model_id == model_id and model.revision]
        others = [one for one in _scan_hub(cache) if one.model_id == model_id and one.revision not in doomed]
        if any(one.revision for one in others):
            scan_cache_dir(cache).delete_revisions(*doomed).execute()
            for revision in doomed:  # of a damaged repository, which the library does not know
                shutil.rmtree(folder / "snapshots" / revision, ignore_errors=True)
        else:
            shutil.rmtree(folder)
            shutil.rmtree(cache / ".locks" / folder.name, ignore_errors=True)
        freed += before - _disk_size(folder)
    for model in models:
        if model.source == OWN:
            freed += _disk_size(model.path)
            shutil.rmtree(model.path)
    return freed


def verify(model: CachedModel, settings: HubSettings, watcher: Watcher, digests: Digests) -> Iterator[Finding]:
    """Read every file of the model, and compare it with its checksum."""
    for path in sorted(model.path.rglob("*")):
        name = path.relative_to(model.path).as_posix()
        if path.is_symlink() and not path.exists():
            yield Finding(model, name, "missing")
        elif path.is_file() and not any(part.startswith(".partial-") for part in path.relative_to(model.path).parts):
            finding = _compare(model, name, path, settings, watcher)
            if finding.status != "corrupt" and finding.found is not None and SHA256.fullmatch(finding.found):
                digests.remember(path, finding.found)
            yield finding


def _compare(model: CachedModel, name: str, path: Path, settings: HubSettings, watcher: Watcher) -> Finding:
    key, total = path.resolve().name, path.stat().st_size
    expected: str | None = key if path.is_symlink() and SHA256.fullmatch(key) else None
    if path == settings.default_wheel.path(settings.model_cache):
        expected = settings.default_wheel.sha256
    if expected is None and path.is_symlink() and GIT_ID.fullmatch(key):
        found = git_id_of(path)
        return Finding(model, name, "ok" if found == key else "corrupt", key, found)
    found = sha256_of(path, lambda done: watcher.verifying(name, done, total))
    if expected is None:
        return Finding(model, name, "unchecked", None, found)
    return Finding(model, name, "ok" if found == expected else "corrupt", expected, found)


def _scan_hub(cache: Path) -> Iterator[CachedModel]:
    try:
        scanned: Any = scan_cache_dir(cache)
    except (CacheNotFound, ValueError):  # none yet, or a file
        return
    listed = set()
    for repository in scanned.repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            listed.add(repository.repo_id)
            folder = Path(revision.snapshot_path)
            used = max((file.blob_last_accessed for file in revision.files), default=None)
            yield CachedModel(repository.repo_id, HUB, revision.commit_hash, tuple(sorted(revision.refs)),
                              revision.size_on_disk, len(revision.files), used, folder, _state(folder))  # fmt: skip
    for model_id in cached_ids(cache):  # the library leaves out what is damaged, or has only begun
        if model_id not in listed:
            yield from _damaged(model_id, _storage(cache, model_id))


def _damaged(model_id: str, folder: Path) -> Iterator[CachedModel]:
    """The revisions of a repository that lacks files, or the repository as such where it has none yet."""
    refs = {path: path.read_text().strip() for path in (folder / "refs").rglob("*") if path.is_file()}
    for snapshot in sorted((folder / "snapshots").glob("*")):
        files = [path for path in snapshot.rglob("*") if path.is_file()]
        named = sorted(
            p.relative_to(folder / "refs").as_posix() for p, commit in refs.items() if commit == snapshot.name
        )
        yield CachedModel(model_id, HUB, snapshot.name, tuple(named), sum(path.stat().st_size for path in files),
                          len(files), snapshot.stat().st_atime, snapshot, "incomplete")  # fmt: skip
    if not any((folder / "snapshots").glob("*")):
        yield CachedModel(model_id, HUB, None, (), _disk_size(folder), 0, folder.stat().st_atime, folder, "incomplete")


def _scan_own(settings: HubSettings) -> Iterator[CachedModel]:
    for folder in sorted(settings.model_cache.glob("*")):
        files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        if not files:
            continue
        pinned = settings.default_wheel.path(settings.model_cache)
        whole = folder != pinned.parent or pinned.exists()
        model_id = DEFAULT_MODEL_ID if folder == pinned.parent else folder.name
        yield CachedModel(model_id, OWN, None, (), _disk_size(folder), len(files),
                          max(path.stat().st_atime for path in files), folder,
                          "complete" if whole else "incomplete")  # fmt: skip


def _state(snapshot: Path) -> str:
    if is_complete(snapshot):
        return "complete"
    if base_of(snapshot) is not None and any(path.exists() for path in snapshot.glob("*.safetensors")):
        return "part"
    return "complete" if any(path.exists() for path in snapshot.glob("*.gguf")) else "incomplete"


def _storage(cache: Path, model_id: str) -> Path:
    return cache / f"models--{model_id.replace('/', '--')}"


def _disk_size(folder: Path) -> int:
    """Bytes of content, without the names of branches."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files if "refs" not in path.relative_to(folder).parts)
