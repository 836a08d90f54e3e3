"""POST `/tokenize`."""

from __future__ import annotations

from aiohttp import web

from tgi.server.responses import encode_array
from tgi.server.schemas import GenerateRequest
from tgi.server.services import read


async def tokenize(request: web.Request) -> web.StreamResponse:
    """The tokens of `inputs`, special ones included, with their byte offsets."""
    services, body = await read(request, GenerateRequest)
    tokens = await services.tokenizer.tokenize(body.inputs, add_special_tokens=True)
    return web.Response(body=await encode_array(tokens), content_type="application/json")
