"""GET `/metrics`."""

from __future__ import annotations

from aiohttp import web

from tgi.server.metrics import CONTENT_TYPE
from tgi.server.services import SERVICES


async def metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus' text format."""
    services = request.app[SERVICES]
    supervisor = services.supervisor
    services.metrics.engine(up=supervisor.state in ("ready", "draining"), restarts=supervisor.restarts)
    return web.Response(body=services.metrics.render(), headers={"content-type": CONTENT_TYPE})
