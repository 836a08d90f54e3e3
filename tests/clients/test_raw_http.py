"""What clients without a library send: plain HTTP of any version, read byte by byte."""

from __future__ import annotations

import json
import re
import socket
import urllib.parse

from tests.live import LiveServer

BODY = json.dumps({"inputs": "The capital of France is", "parameters": {"max_new_tokens": 3}}).encode()


def talk(server: LiveServer, request: bytes) -> bytes:
    """Everything the server says to these bytes, until it closes the connection."""
    address = urllib.parse.urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def post(path: str, body: bytes = BODY, *, version: str = "1.1", close: bool = True) -> bytes:
    connection = b"connection: close\r\n" if close else b""
    head = f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + connection + b"\r\n" + body


def unchunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        whole, data = whole + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return whole


def test_a_native_stream_byte_for_byte(live_server: LiveServer) -> None:
    head, _, body = talk(live_server, post("/generate_stream")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-type: text/event-stream\r\n" in head
    events = unchunked(body)
    token = rb'data: {"index":%d,"token":{"id":\d+,"text":"[^"]*","logprob":-[0-9.e-]+,"special":false},'
    last = rb'"generated_text":"[^"]+","details":null}\n\n'
    pattern = (
        b"".join(token % index + rb'"generated_text":null,"details":null}\n\n' for index in (1, 2)) + token % 3 + last
    )
    assert re.fullmatch(pattern, events), events


def test_an_openai_stream_ends_with_done(live_server: LiveServer) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 2, "stream": True}).encode()
    events = unchunked(talk(live_server, post("/v1/completions", body)).partition(b"\r\n\r\n")[2])
    lines = events.split(b"\n\n")
    assert lines[-2:] == [b"data: [DONE]", b""]
    assert [line[:16] for line in lines[:2]] == [b'data: {"object":'] * 2


def test_http_1_0_gets_a_whole_answer_and_a_closed_connection(live_server: LiveServer) -> None:
    for path in ("/generate", "/generate_stream"):
        head, _, body = talk(live_server, post(path, version="1.0", close=False)).partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0].endswith(b" 200 OK")
        assert b"transfer-encoding" not in head.lower()
        if path == "/generate":
            assert json.loads(body)["generated_text"]
        else:
            assert body.count(b"data: ") == 3


def test_pipelined_requests_are_answered_in_their_order(live_server: LiveServer) -> None:
    texts = ["one", "two two", "three three three"]
    requests = [json.dumps({"inputs": text}).encode() for text in texts]
    received = talk(
        live_server,
        b"".join(post("/tokenize", body, close=body == requests[-1]) for body in requests),
    )
    answers = [json.loads(line) for line in re.findall(rb"\r\n\r\n(\[.*?\])(?=HTTP|$)", received, re.S)]
    assert ["".join(token["text"] for token in answer) for answer in answers] == texts


def test_head_tells_what_get_would_without_a_body(live_server: LiveServer) -> None:
    for path in ("/health", "/info", "/v1/models", "/metrics", "/"):
        head, _, body = talk(
            live_server, f"HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        ).partition(b"\r\n\r\n")
        assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b""), path
