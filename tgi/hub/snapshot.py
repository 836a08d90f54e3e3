"""A model of the hub: what it consists of at one commit, and all of it fetched into the hub's cache.

Imported only when the hub must be asked: its library takes a while to load.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

from tgi.errors import ModelError
from tgi.hub import transfer
from tgi.hub.digests import GIT_ID, SHA256, Digests
from tgi.hub.faults import hub_errors, status_of
from tgi.hub.files import DEFAULT_REVISION, ModelFiles, in_snapshot, is_part, split_hub_id
from tgi.hub.selection import Plan, PlannedFile, choose
from tgi.hub.transfer import Storage
from tgi.hub.watch import Progress, watcher
from tgi.hub.wheel import disk_full

LIST_TRIES = 4  # of a hub that is busy
LIST_BACK_OFF_S = 1.0

_REPLY_TIMEOUT_S = 5.0  # for the first answer of the hub: a machine without network must not wait long
_LONGEST_WAIT_S = 60.0
_BUSY = (429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


def download(model_id: str, revision: str | None, cache: Path, *, token: str | None, endpoint: str | None,
             progress: Progress, digests: Digests, convert: bool = False,
             parts: bool = False) -> ModelFiles:  # fmt: skip
    """Fetch weights, configuration and tokenizer from the hub into its cache; what is there already is kept.

    `convert` fetches pickled weights where there are no others, and `parts` accepts what cannot be served: an adapter,
    draft heads, a model without a tokenizer. A pinned `revision` (a commit) is all that is ever asked for.

    Raises: ModelError with exit code 12 (not found), 13 (gated), 14 (network), 15 (disk full), 16 (corrupt, or only
            pickled weights) or 18 (no fast tokenizer).
    """
    plan = make_plan(model_id, revision, cache, token=token, endpoint=endpoint, convert=convert)
    storage = _storage(plan, cache, token, endpoint)
    told = watcher(progress)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells each try again, and so do we
    _check_room(cache, plan.missing_bytes)
    told.planned(plan)
    try:
        with hub_errors(plan.repository, revision, cache, endpoint, token):
            transfer.fetch_all(plan, storage, told, digests)
            _note_commit(storage, revision or DEFAULT_REVISION)
    finally:
        digests.save()
    files = in_snapshot(model_id, storage.commit, storage.snapshot, split_hub_id(model_id)[1])
    if files is not None:
        return files
    if parts or convert:
        return ModelFiles(model_id, storage.commit, storage.snapshot, storage.snapshot)
    if is_part(storage.snapshot):
        raise part_alone(model_id)
    raise ModelError(f"the hub's repository `{plan.repository}` lacks a config.json or a tokenizer.json",
                     hint="choose a repository that transformers' fast tokenizers can read, or a .gguf file",
                     exit_code=18)  # fmt: skip


def make_plan(model_id: str, revision: str | None, cache: Path, *, token: str | None, endpoint: str | None,
              convert: bool = False) -> Plan:  # fmt: skip
    """What fetching the model would take; nothing is fetched or written. Raises: ModelError, as `download`."""
    repository, gguf = split_hub_id(model_id)
    with hub_errors(repository, revision, cache, endpoint, token):
        info: Any = _patiently(lambda: HfApi(endpoint=endpoint, token=token).model_info(
            repository, revision=revision, timeout=_REPLY_TIMEOUT_S, files_metadata=True))  # fmt: skip
    siblings = {file.rfilename: file for file in info.siblings or []}
    names = choose(model_id, gguf, siblings, convert=convert)
    commit = info.sha or revision or DEFAULT_REVISION
    with hub_errors(repository, revision, cache, endpoint, token):
        files = tuple(_planned(siblings[name]) or _ask(repository, name, commit, endpoint, token) for name in names)
    plan = Plan(model_id, repository, revision, commit, files)
    storage = _storage(plan, cache, token, endpoint)
    return replace(plan, files=tuple(replace(file, present=_present(file, storage)) for file in plan.files))


def part_alone(model_id: str) -> ModelError:
    """The error for serving an adapter or draft heads without the model they belong to."""
    return ModelError(f"`{model_id}` is no whole model: it changes or speeds up another one, its base",
                      hint=f"for a LoRA adapter, run `tgi download --merge-lora {model_id}` first; or serve the base",
                      exit_code=18)  # fmt: skip


def _planned(sibling: Any) -> PlannedFile | None:
    """What the list of files says of one; None where it leaves out the size, as some mirrors do."""
    if sibling.size is None and not sibling.lfs:
        return None
    lfs = sibling.lfs
    sha256 = getattr(lfs, "sha256", None) if lfs else None
    size = (getattr(lfs, "size", None) if lfs else None) or sibling.size or 0
    git_id = sibling.blob_id or ""
    return PlannedFile(
        sibling.rfilename, size,
        sha256=sha256 if sha256 and SHA256.fullmatch(sha256) else None,
        git_id=git_id if GIT_ID.fullmatch(git_id) else None,
    )  # fmt: skip


def _ask(repository: str, name: str, commit: str, endpoint: str | None, token: str | None) -> PlannedFile:
    """What the hub says of a file when it is asked for that one."""
    url = hf_hub_url(repository, name, revision=commit, endpoint=endpoint)
    answer = _patiently(lambda: get_hf_file_metadata(url, token=token, timeout=_REPLY_TIMEOUT_S, endpoint=endpoint))
    etag = answer.etag or ""
    return PlannedFile(name, answer.size or 0, sha256=etag if SHA256.fullmatch(etag) else None,
                       git_id=etag if GIT_ID.fullmatch(etag) else None)  # fmt: skip


def _present(file: PlannedFile, storage: Storage) -> int:
    if (storage.snapshot / file.path).exists() or (file.key and storage.blob(file.key).exists()):
        return file.size
    partial = storage.partial(file.key) if file.key else None
    # One that seems whole was not compared with its checksum yet.
    return min(partial.stat().st_size, max(0, file.size - 1)) if partial is not None and partial.exists() else 0


def _storage(plan: Plan, cache: Path, token: str | None, endpoint: str | None) -> Storage:
    assert plan.commit is not None
    return Storage(cache, plan.repository, plan.commit, token, endpoint)


def _check_room(cache: Path, needed: int) -> None:
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise disk_full(cache, needed, free)


def _note_commit(storage: Storage, revision: str) -> None:
    """Note which commit a branch or tag was; once all files are there, so that its name never leads to half a model."""
    if revision == storage.commit:
        return
    ref = storage.folder / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    partial = ref.with_name(f"{ref.name}.{os.getpid()}")
    partial.write_text(storage.commit)
    os.replace(partial, ref)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """The answer of a hub that may be busy: a few tries, as long apart as it wants."""
    wait_s = LIST_BACK_OFF_S
    for _ in range(LIST_TRIES - 1):
        try:
            return ask()
        except Exception as error:
            if status_of(error) not in _BUSY:
                raise
            time.sleep(min(_LONGEST_WAIT_S, _asked_for(error) or wait_s))
            wait_s *= 2
    return ask()


def _asked_for(error: Exception) -> float | None:
    """The seconds of a `Retry-After`, if it has that form."""
    response: Any = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isdecimal() and text.isascii() else None
