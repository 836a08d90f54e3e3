"""V17 and V18: HTTP that is too large, or that two programs would read differently."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from aiohttp import http_parser

from tests.security.harmless import POST, check_refusal, exchange, statuses
from tests.server.serving import answering, serve
from tgi.config import Config, Http
from tgi.errors import ConfigError
from tgi.hub.files import ModelFiles
from tgi.server.app import run

BODY = b'{"inputs":"x"}'
SMUGGLED = b"GET /info HTTP/1.1\r\nhost: x\r\n\r\n"


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-large: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["one header", "many headers", "path"],
)
async def test_headers_have_an_end(request_bytes: bytes) -> None:
    async with serve() as server:
        answer = await exchange(server, request_bytes)
    if answer:  # a client that is still writing may see only the closed connection
        assert statuses(answer) == [400]
        check_refusal(400, body_of(answer))


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/chat/completions", "/vertex", "/tokenize"])
async def test_bodies_have_an_end(path: str) -> None:
    async with serve() as server:
        large = await server.request(
            "POST", path, data=io.BytesIO(b'{"inputs":"' + b"x" * 3_000_000 + b'"}'),
            headers={"content-type": "application/json"},
        )  # fmt: skip
        bomb = await server.post(path, gzip.compress(b" " * 50_000_000), **{"content-encoding": "gzip"})
        assert server.supervisor.requests == []
    for answer in (large, bomb):
        check_refusal(answer.status, answer.body)
        assert answer.status in (400, 413)


async def test_a_storm_of_chunks_is_one_body() -> None:
    async with serve(answering("a")) as server:
        storm = (
            POST + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" + b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"
        )
        answer = await exchange(server, storm)
        assert (await server.post("/generate", BODY)).status == 200
    assert statuses(answer) in ([400], [])
    if answer:
        check_refusal(400, body_of(answer))


async def test_multipart_is_accepted_nowhere() -> None:
    async with serve() as server:
        for path in ("/", "/generate", "/v1/chat/completions", "/invocations", "/vertex", "/tokenize"):
            answer = await server.post(path, b"--x\r\n\r\n--x--", **{"content-type": "multipart/form-data; boundary=x"})
            assert answer.status == 415
            check_refusal(answer.status, answer.body)


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 14\r\ncontent-length: 60\r\n",
        b"content-length: 14, 60\r\n",
        b"content-length: +14\r\n",
        b"content-length: 0x0e\r\n",
        b"content-length: -1\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        b"x-folded: a\r\n b\r\ncontent-length: 14\r\n",
        b"content-length : 14\r\n",
        b"content-length: 14\n",
        b"x\x00y: z\r\ncontent-length: 14\r\n",
    ],
)
async def test_ambiguous_framing_is_refused_and_the_connection_closed(framing: bytes) -> None:
    async with serve(answering("a")) as server:
        answer = await exchange(server, POST + framing + b"\r\n" + BODY + SMUGGLED)
        assert server.supervisor.requests == []
    assert statuses(answer) == [400]
    check_refusal(400, body_of(answer))


def test_the_pure_python_parser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    files = ModelFiles("tiny", None, Path("model"), Path())
    with pytest.raises(ConfigError, match="without its C parser"):
        run(Config(http=Http(hostname="127.0.0.1", port=0)), files, ready=lambda engine, url: None)
