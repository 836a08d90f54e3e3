"""GET `/metrics`."""

from __future__ import annotations

from aiohttp import web

from tgi.server.metrics import CONTENT_TYPE
from tgi.server.services import SERVICES


async def metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus' text format."""
    services = request.app[SERVICES]
    series, journal = services.metrics, services.supervisor.journal
    series.engine_up.set(int(services.supervisor.engine_pid is not None))
    series.queue_tokens.set(journal.waiting_tokens)
    series.journal_bytes.set(journal.num_bytes)
    series.open_connections.set(services.count_connections())
    if services.tracing is not None:
        series.spans_dropped.value = services.tracing.dropped
    return web.Response(body=series.render(), headers={"content-type": CONTENT_TYPE})
