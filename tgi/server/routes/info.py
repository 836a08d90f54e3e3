"""GET `/info`, `/v1/models` and `/v1/models/{id}`: what is served, within which limits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from tgi import __version__
from tgi.errors import RequestError
from tgi.hub.files import FileHash
from tgi.server.schemas import MAX_MESSAGES
from tgi.server.services import SERVICES, Services, json_response
from tgi.server.validation import MAX_BIASED_TOKENS, MAX_CHOICES, MAX_STOP_CHARACTERS


class ModelFile(Struct, kw_only=True):
    """A file of the model; `sha256` is null where nothing knew it before the start: `tgi cache verify` learns it."""

    path: str
    size: int
    sha256: str | None


class Info(Struct, kw_only=True):
    """The answer of `/info`: TGI's keys first; the others are ours (or older TGI's)."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str = "text-generation-router"
    version: str = __version__
    sha: str | None = None
    docker_label: str | None = None
    model_dtype: str
    model_device_type: str
    max_batch_total_tokens: int
    max_batch_size: int
    max_step_tokens: int
    waiting_served_ratio: float
    max_waiting_tokens: int
    max_top_n_tokens: int
    max_choices: int = MAX_CHOICES
    max_stop_sequence_characters: int = MAX_STOP_CHARACTERS
    max_biased_tokens: int = MAX_BIASED_TOKENS
    max_messages: int = MAX_MESSAGES
    payload_limit: int
    model_files: list[ModelFile] = []
    model_hash: str | None = None


class Model(Struct, kw_only=True):
    """A model, as OpenAI describes it; `max_model_len` is vLLM's name for prompt and answer together."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str
    max_model_len: int


class ModelList(Struct, kw_only=True):
    """The answer of `/v1/models`."""

    object: str = "list"
    data: list[Model]


class UnknownModel(RequestError):
    """A model that is not served."""

    status = 404
    error_type = "model_not_found"


async def info(request: web.Request) -> web.StreamResponse:
    """What is served, within which limits."""
    services = request.app[SERVICES]
    config, ready, validator = services.config, services.ready, services.validator
    limits = config.limits
    return json_response(
        Info(
            model_id=services.served.model_id,
            model_sha=services.served.sha,
            model_pipeline_tag=services.served.pipeline_tag,
            max_concurrent_requests=limits.max_concurrent_requests,
            max_best_of=limits.max_best_of,
            max_stop_sequences=limits.max_stop_sequences,
            max_input_tokens=validator.max_input_tokens,
            max_total_tokens=validator.max_total_tokens,
            validation_workers=config.http.validation_workers,
            max_client_batch_size=limits.max_client_batch_size,
            model_dtype=ready.dtype,
            model_device_type=ready.device,
            max_batch_total_tokens=ready.num_blocks * ready.block_size,
            max_batch_size=ready.max_rows,
            max_step_tokens=ready.max_step_tokens,
            waiting_served_ratio=config.batching.waiting_served_ratio,
            max_waiting_tokens=config.batching.max_waiting_tokens,
            max_top_n_tokens=limits.max_top_n_tokens,
            payload_limit=limits.payload_limit,
            model_files=[
                ModelFile(path=file.path, size=file.size, sha256=file.sha256) for file in services.served.files
            ],
            model_hash=model_hash(services.served.files),
        )
    )


def model_hash(files: Sequence[FileHash]) -> str | None:
    """One SHA-256 for all files: of lines `sha256  path`, sorted by path, as `sha256sum` writes them.

    None where there is no file, or one whose hash is not known.
    """
    if not files or any(file.sha256 is None for file in files):
        return None
    lines = sorted((file.path, file.sha256) for file in files)
    return hashlib.sha256("".join(f"{sha256}  {path}\n" for path, sha256 in lines).encode()).hexdigest()


async def models(request: web.Request) -> web.StreamResponse:
    """The one model that is served, as OpenAI lists it."""
    return json_response(ModelList(data=[_served(request.app[SERVICES])]))


async def model(request: web.Request) -> web.StreamResponse:
    """The model of that id, if it is the one that is served. Raises: UnknownModel."""
    served = _served(request.app[SERVICES])
    if request.match_info["model"] != served.id:
        raise UnknownModel("The model does not exist; `/v1/models` lists those that do")
    return json_response(served)


def _served(services: Services) -> Model:
    model_id = services.served.model_id
    return Model(id=model_id, owned_by=model_id, max_model_len=services.validator.max_total_tokens)
