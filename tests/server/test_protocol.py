"""Malformed, slow and oversized HTTP never harms, and is never repeated."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging

import pytest

from tests.server.serving import Server, answering, serve
from tgi.config import Limits
from tgi.server import protocol

POST = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


async def exchange(server: Server, request: bytes) -> bytes:
    """Everything the server answers to raw bytes, until it closes or has answered the last of them."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/json; charset=utf-8", "application/problem+json", "APPLICATION/JSON"],
)
async def test_json_has_several_names(kind: str) -> None:
    async with serve(answering("a")) as server:
        assert (await server.post("/generate", {"inputs": "x"}, **{"content-type": kind})).status == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", "text/x+json"]
)
async def test_other_content_is_not_read(kind: str) -> None:
    async with serve() as server:
        answer = await server.post("/generate", {"inputs": "x"}, **{"content-type": kind})
    assert (answer.status, answer.json) == (
        415,
        {"error": "Expected request with `Content-Type: application/json`", "error_type": "validation"},
    )


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NOT HTTP SECRETBYTES\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + b"SECRETBYTES" * 2000 + b"\r\n\r\n",
        b"GET /" + b"SECRETBYTES" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        POST + b"SECRETBYTES\x00: 1\r\n\r\n",
    ],
    ids=["no http", "long header", "long path", "two framings", "two lengths", "bad name"],
)
async def test_malformed_http_is_answered_without_repeating_it(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="tgi")
    async with serve() as server:
        answer = await exchange(server, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ") or answer.startswith(b"HTTP/1.0 400 ")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert json.loads(body)["error_type"] == "validation"
    assert b"aiohttp" not in head.lower()
    assert b"SECRETBYTES" not in answer
    assert "SECRETBYTES" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_header_names_are_lower_case() -> None:
    async with serve() as server:
        answer = await exchange(server, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    names = [line.partition(b":")[0] for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert names == [name.lower() for name in names]
    assert b"server" not in names


async def test_a_compressed_body_is_measured_when_it_is_unpacked() -> None:
    async with serve(answering("a"), limits=Limits(payload_limit=10_000)) as server:
        small = gzip.compress(json.dumps({"inputs": "x" * 5000, "parameters": {"truncate": 1}}).encode())
        bomb = gzip.compress(b" " * 50_000_000)
        headers = {"content-encoding": "gzip"}
        assert (await server.post("/generate", small, **headers)).status == 200
        assert (await server.post("/generate", bomb, **headers)).status in (400, 413)
        assert (await server.post("/generate", b"not gzip", **headers)).status == 400


async def test_a_body_without_a_length_is_measured_too() -> None:
    async with serve(limits=Limits(payload_limit=1000)) as server:
        chunks = b"".join(b"64\r\n" + b"x" * 100 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
        answer = await exchange(server, POST + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    assert b" 413 " in answer.split(b"\r\n")[0]


async def test_a_body_that_never_arrives_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_GRACE_S", 0.05)
    monkeypatch.setattr(protocol, "LINGER_S", 0.05)
    async with serve() as server:
        answer = await exchange(server, POST + b'content-length: 100\r\n\r\n{"inputs"')
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"it arrives too slowly" in answer


async def test_headers_that_never_arrive_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_DEADLINE_S", 0.05)
    async with serve() as server:
        assert await exchange(server, b"GET /health HT") == b""


async def test_a_slow_answer_is_not_taken_for_slow_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_DEADLINE_S", 0.05)
    async with serve(answering("a")) as server:
        server.supervisor.hold()
        asyncio.get_running_loop().call_later(0.2, server.supervisor.release)
        assert (await server.post("/generate", {"inputs": "x"})).json == {"generated_text": "a"}


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with serve() as server:
        one = b"GET /%d HTTP/1.1\r\nhost: x\r\nx-request-id: r%d\r\n\r\n"
        last = b"GET /health HTTP/1.1\r\nhost: x\r\nx-request-id: r99\r\nconnection: close\r\n\r\n"
        answer = await exchange(server, b"".join(one % (n, n) for n in range(20)) + last)
    names = [line.split(b": ")[1] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert names == [b"r%d" % n for n in range(20)] + [b"r99"]
