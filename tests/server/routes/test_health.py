"""`/health`, `/ping` and `GET /`."""

from __future__ import annotations

import pytest

from tests.server.serving import serve


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
async def test_a_ready_server_answers_with_nothing(path: str) -> None:
    async with serve() as server:
        server.supervisor.hold()  # a busy engine is a healthy one
        assert ((await server.get(path)).status, (await server.get(path)).body) == (200, b"")
        assert (await server.request("HEAD", path)).status == 200


@pytest.mark.parametrize("state", ["starting", "recovering", "failed"])
async def test_a_server_that_cannot_generate_says_why(state: str) -> None:
    async with serve() as server:
        server.supervisor.state = state
        answer = await server.get("/health")
    assert answer.status == 503
    assert answer.json == {"error": "unhealthy", "error_type": "healthcheck", "status": state}
