"""`fetch()`: what `tgi download` does beyond finding a model: conversion, bases of adapters, merging, dry runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tgi.config import Model
from tgi.errors import ModelError
from tgi.hub import lock
from tgi.hub.download import DEFAULT_MODEL_ID, HubSettings, hub_cache, locate, resolved, with_nearest
from tgi.hub.files import (
    DEFAULT_REVISION,
    ModelFiles,
    base_of,
    find_cached,
    find_cached_part,
    find_local,
    find_overridden,
    is_complete,
    is_part,
    lacking,
    split_hub_id,
)
from tgi.hub.isolated import run_isolated
from tgi.hub.selection import ADAPTER_CONFIG, Plan, PlannedFile, pickled
from tgi.hub.watch import Watcher

CONVERT = "tgi.conversion.pickles:convert"  # named, not imported: they load torch
NETWORK = 14  # the exit code
MERGE = "tgi.conversion.lora:merge"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted beside the files: safetensors made of pickles, an adapter merged into its base."""

    convert: bool = False
    merge_lora: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model that is here. `base` is the model it belongs to, if it is an adapter or draft heads."""

    files: ModelFiles
    was_here: bool
    base: ModelFiles | None = None
    made: tuple[str, ...] = ()  # files that were written here, by conversion or merging

    @property
    def lacks(self) -> list[str]:
        """Files without which this cannot be served; none for what is no model of its own."""
        files = self.files
        if self.base is not None or files.revision is None or files.path.is_file():
            return []
        return lacking(files.folder)


def fetch(model: Model, wish: Wish, *, environment: HubSettings, watcher: Watcher) -> Fetched:
    """Bring the model, and its base, to this machine.

    Raises: ModelError, as `locate`; also for pickles that hold more than tensors (16), or an adapter that cannot be
            merged (18).
    """
    model = resolved(model)
    if (model.model_id is None and model.weights_cache_override is None) or model.locked:
        return _located(model, environment, watcher)
    counted = _Counted(watcher)
    files = _here(model) or _download(model, wish, environment, counted)
    was_here = not counted.called
    made = _converted(files, wish)
    if (files.folder / ADAPTER_CONFIG).exists() and is_complete(files.folder):
        return Fetched(files, was_here and not made, None, made)  # merged already
    base_id = base_of(files.folder)
    if base_id is None or base_id == model.model_id:
        return Fetched(files, was_here and not made, None, made)
    wanted = replace(model, model_id=base_id, revision=None, weights_cache_override=None)
    base = fetch(wanted, Wish(convert=wish.convert), environment=environment, watcher=watcher)
    if wish.merge_lora and (files.folder / ADAPTER_CONFIG).exists():
        made += tuple(run_isolated(MERGE, str(base.files.folder), str(files.folder), str(files.folder)))
    return Fetched(files, was_here and base.was_here and not made, base.files, made)


def make_plan(model: Model, wish: Wish, *, environment: HubSettings) -> Plan:
    """What `fetch` would have to do for the model itself; nothing is fetched or written. Raises: ModelError."""
    model = resolved(model)
    if model.model_id is None and model.weights_cache_override is None:
        return _default_plan(model, environment)
    here = _here(model)
    return _ask(model, wish, environment) if here is None else _plan_of(here, model.revision)


def _located(model: Model, environment: HubSettings, watcher: Watcher) -> Fetched:
    """The default model, or one that is locked: nothing is converted or merged."""
    counted = _Counted(watcher)
    files = locate(model, environment=environment, progress=counted)
    return Fetched(files, not counted.called)


def _here(model: Model) -> ModelFiles | None:
    if model.weights_cache_override is not None:
        return find_overridden(model.model_id, model.weights_cache_override)
    assert model.model_id is not None
    cache = hub_cache(model)
    found = find_local(model.model_id) or find_cached(model.model_id, model.revision, cache)
    part = find_cached_part(model.model_id, model.revision, cache)
    return found or (part if part is not None and is_part(part.folder) else None)


def _download(model: Model, wish: Wish, environment: HubSettings, watcher: Watcher) -> ModelFiles:
    from tgi.hub.snapshot import download  # noqa: PLC0415  (a cached model needs no hub's library)

    assert model.model_id is not None
    cache = hub_cache(model)
    try:
        return download(model.model_id, model.revision, cache, token=environment.token, endpoint=environment.endpoint,
                        progress=watcher, digests=environment.digests, convert=wish.convert, parts=True)  # fmt: skip
    except ModelError as error:
        # Without network, weights that lack a tokenizer are better than nothing.
        part = find_cached_part(model.model_id, model.revision, cache) if error.exit_code == NETWORK else None
        if part is None:
            raise with_nearest(error, model.model_id, cache) from error
        return part


def _ask(model: Model, wish: Wish, environment: HubSettings) -> Plan:
    from tgi.hub.snapshot import make_plan as ask  # noqa: PLC0415  (as above)

    assert model.model_id is not None
    cache = hub_cache(model)
    try:
        return ask(model.model_id, model.revision, cache, token=environment.token, endpoint=environment.endpoint,
                   convert=wish.convert)  # fmt: skip
    except ModelError as error:
        raise with_nearest(error, model.model_id, cache) from error


def _converted(files: ModelFiles, wish: Wish) -> tuple[str, ...]:
    """Make safetensors of pickles, where there are no better weights. Returns: what was written."""
    folder = files.folder
    if files.path.is_file() or any(folder.glob("*.safetensors")) or any(folder.glob("*.gguf")):
        return ()
    names = pickled(path.name for path in folder.glob("*") if path.is_file())
    if not names:
        return ()
    if not wish.convert:
        raise ModelError(f"`{files.model_id}` holds only pickled weights (`{names[0]}`), which are never loaded: "
                         "unpickling runs code",
                         hint=f"`tgi download --convert {files.model_id}` makes safetensors of them",
                         exit_code=16)  # fmt: skip
    return tuple(run_isolated(CONVERT, str(folder), names))


def _default_plan(model: Model, environment: HubSettings) -> Plan:
    pinned = environment.default_wheel
    packaged = environment.packaged_default
    own = packaged if packaged is not None and model.revision is None else pinned.path(environment.model_cache)
    cached = find_cached(DEFAULT_MODEL_ID, model.revision, hub_cache(model))
    if cached is None and own.exists() and model.revision is None:
        cached = ModelFiles(DEFAULT_MODEL_ID, None, own, own.parent)
    if cached is not None:
        return _plan_of(cached, model.revision)
    try:
        return _ask(replace(model, model_id=DEFAULT_MODEL_ID), Wish(), environment)
    except ModelError:
        if model.revision is not None:
            raise
    wheel = PlannedFile(Path(pinned.member).name, pinned.size, sha256=pinned.sha256)
    return Plan(DEFAULT_MODEL_ID, DEFAULT_MODEL_ID, None, None, (wheel,))


def _plan_of(files: ModelFiles, revision: str | None) -> Plan:
    """The plan of a model of which nothing is left to fetch."""
    found = tuple(PlannedFile(name, path.stat().st_size, path.stat().st_size) for name, path in lock.paths_of(files))
    asked = revision or (DEFAULT_REVISION if files.revision else None)
    return Plan(files.model_id, split_hub_id(files.model_id)[0], asked, files.revision, found)


class _Counted(Watcher):
    """Passes everything on, and knows whether anything was fetched."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.called = False
        self.resumed, self.retrying = watcher.resumed, watcher.retrying  # type: ignore[method-assign]
        self.verifying, self.verified = watcher.verifying, watcher.verified  # type: ignore[method-assign]
        self.advanced = watcher.advanced  # type: ignore[method-assign]

    def __call__(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        self.called = True
        self._watcher(what, done_bytes, total_bytes)

    def planned(self, plan: Plan) -> None:
        self.called = self.called or plan.missing_bytes > 0
        self._watcher.planned(plan)
