"""GET `/health`, `/ping` and `/`: whether the next request can be served."""

from __future__ import annotations

from aiohttp import web

from tgi.server.middleware import health_body
from tgi.server.services import SERVICES


async def health(request: web.Request) -> web.StreamResponse:
    """200 and nothing, or 503 and why. Never asks the engine, so a busy one answers as fast as an idle one."""
    state = request.app[SERVICES].health
    if state == "ready":
        return web.Response()
    return web.Response(status=503, body=health_body(state), content_type="application/json")
