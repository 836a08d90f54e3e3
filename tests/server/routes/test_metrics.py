"""`/metrics`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import answering, serve


async def test_the_exposition_is_prometheus_text() -> None:
    async with serve(answering("a")) as server:
        await server.post("/generate", {"inputs": "x"})
        server.supervisor.restarts = 2
        answer = await server.get("/metrics")
        await server.get("/metrics")
        assert await server.metric("tgi_engine_restarts") == 2
        assert await server.metric("tgi_engine_up") == 1
        server.supervisor.state = "recovering"
        assert await server.metric("tgi_engine_up") == 0
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert families["tgi_request_count"].samples[0].value == 1
    assert families["tgi_request_generated_tokens"].type == "histogram"
