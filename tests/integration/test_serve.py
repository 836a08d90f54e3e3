"""`tgi serve` of the default model, as a user meets it: many streams at once, and clients that leave."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.request
from typing import Any

import aiohttp
import pytest

from tests.live import LiveServer

NUM_STREAMS = 64


def gauge(server: LiveServer, series: str) -> float:
    """The value of one series of `/metrics`."""
    with urllib.request.urlopen(server.url + "/metrics", timeout=60) as response:
        found = re.search(rf"^{re.escape(series)} (\S+)$", response.read().decode(), re.MULTILINE)
    assert found, series
    return float(found[1])


async def texts(server: LiveServer, bodies: list[dict[str, Any]]) -> list[str]:
    """The generated texts of requests sent all at once."""

    async def one(body: dict[str, Any]) -> str:
        async with session.post(server.url + "/generate", json=body) as response:
            assert response.status == 200
            answer = await response.json()
            return str(answer["generated_text"])

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await asyncio.gather(*map(one, bodies))


async def test_sixty_four_streams_complete_with_the_text_of_each_alone(live_server: LiveServer) -> None:
    bodies = [
        {"inputs": f"Item {n} of the list is", "parameters": {"max_new_tokens": 24, "seed": n, "do_sample": n % 2 == 1}}
        for n in range(NUM_STREAMS)
    ]
    together = await texts(live_server, bodies)
    assert all(together)
    some = range(0, NUM_STREAMS, 9)
    assert [(await texts(live_server, [bodies[n]]))[0] for n in some] == [together[n] for n in some]


@pytest.mark.parametrize("path", ["/generate_stream", "/generate"])
def test_a_client_that_leaves_frees_its_blocks(live_server: LiveServer, path: str) -> None:
    free = gauge(live_server, 'tgi_kv_blocks{state="free"}')
    body = b'{"inputs": "Once upon a time", "parameters": {"max_new_tokens": 8000}}'
    host, port = live_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        while gauge(live_server, 'tgi_kv_blocks{state="free"}') >= free:  # until it runs
            pass
    left_at = gauge(live_server, 'tgi_batch_inference_count{method="decode"}')
    while gauge(live_server, 'tgi_kv_blocks{state="free"}') < free:
        # 8,000 tokens would take as many steps; a few pass between the two readings.
        assert gauge(live_server, 'tgi_batch_inference_count{method="decode"}') < left_at + 200
    assert gauge(live_server, "tgi_batch_current_size") == 0
    assert gauge(live_server, 'tgi_request_failure{err="dropped"}') >= 1
