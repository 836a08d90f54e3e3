"""GET `/info` and `/v1/models`: what is served, within which limits."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tgi import __version__
from tgi.server.schemas import MAX_MESSAGES
from tgi.server.services import SERVICES, json_response
from tgi.server.validation import MAX_BIASED_TOKENS, MAX_CHOICES, MAX_STOP_CHARACTERS


async def info(request: web.Request) -> web.StreamResponse:
    """TGI's keys first; the others are ours (or older TGI's)."""
    services = request.app[SERVICES]
    config, ready, validator = services.config, services.ready, services.validator
    limits = config.limits
    answer: dict[str, Any] = {
        "model_id": services.served.model_id,
        "model_sha": services.served.sha,
        "model_pipeline_tag": services.served.pipeline_tag,
        "max_concurrent_requests": limits.max_concurrent_requests,
        "max_best_of": limits.max_best_of,
        "max_stop_sequences": limits.max_stop_sequences,
        "max_input_tokens": validator.max_input_tokens,
        "max_total_tokens": validator.max_total_tokens,
        "validation_workers": config.http.validation_workers,
        "max_client_batch_size": limits.max_client_batch_size,
        "router": "text-generation-router",
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "model_dtype": ready.dtype,
        "model_device_type": ready.device,
        "max_batch_total_tokens": ready.num_blocks * ready.block_size,
        "max_batch_size": ready.max_rows,
        "max_step_tokens": ready.max_step_tokens,
        "waiting_served_ratio": config.batching.waiting_served_ratio,
        "max_waiting_tokens": config.batching.max_waiting_tokens,
        "max_top_n_tokens": limits.max_top_n_tokens,
        "max_choices": MAX_CHOICES,
        "max_stop_sequence_characters": MAX_STOP_CHARACTERS,
        "max_biased_tokens": MAX_BIASED_TOKENS,
        "max_messages": MAX_MESSAGES,
        "payload_limit": limits.payload_limit,
    }
    return json_response(answer)


async def models(request: web.Request) -> web.StreamResponse:
    """The one model that is served, as OpenAI lists it."""
    model_id = request.app[SERVICES].served.model_id
    model = {"id": model_id, "object": "model", "created": 0, "owned_by": model_id}
    return json_response({"object": "list", "data": [model]})
