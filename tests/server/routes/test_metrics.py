"""`/metrics`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import make_request
from tests.server.serving import answering, serve


async def test_the_exposition_is_prometheus_text() -> None:
    async with serve(answering("a")) as server:
        await server.post("/generate", {"inputs": "x"})
        answer = await server.get("/metrics")
        assert await server.metric("tgi_engine_up") == 1
        assert await server.metric("tgi_open_connections") == 1
        server.supervisor.engine_pid = None
        assert await server.metric("tgi_engine_up") == 0
        server.supervisor.journal.add(make_request(7, range(5)))
        assert await server.metric("tgi_queue_tokens") == 5
        assert await server.metric("tgi_journal_bytes") == 20
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert families["tgi_request_count"].samples[0].value == 1
    assert families["tgi_request_generated_tokens"].type == "histogram"
