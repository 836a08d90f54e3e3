"""POST `/tokenize`."""

from __future__ import annotations

from aiohttp import web

from tgi.server.schemas import GenerateRequest
from tgi.server.services import json_response, read


async def tokenize(request: web.Request) -> web.StreamResponse:
    """The tokens of `inputs`, special ones included, with their byte offsets."""
    services, body = await read(request, GenerateRequest)
    return json_response(await services.tokenizer.tokenize(body.inputs, add_special_tokens=True))
