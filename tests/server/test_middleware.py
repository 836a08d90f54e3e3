"""What every answer carries, who is let in, and how errors look."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tests.server.serving import answering, serve
from tgi.config import Http, Limits
from tgi.errors import Overloaded, TemplateError, Unavailable, ValidationError
from tgi.log import bound
from tgi.server.middleware import error_response, retry_headers

GUARDED = [
    "/",
    "/generate",
    "/generate_stream",
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/chat_tokenize",
]
OPEN = ["/", "/health", "/ping", "/info", "/v1/models", "/metrics"]
BODY = {"inputs": "x", "messages": [], "prompt": "x"}


def http(**changes: object) -> Http:
    return Http(hostname="127.0.0.1", port=0, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nope", b"{}", 404), ("/generate/", b"{}", 404), ("/info", b"{}", 405),
        ("/generate", b"{", 400), ("/generate", b'{"inputs":1}', 422), ("/v1/chat/completions", b"{}", 422),
    ],
)  # fmt: skip
async def test_statuses_of_bad_requests(path: str, body: bytes, status: int) -> None:
    async with serve() as server:
        answer = await server.post(path, body)
        assert await server.metric("tgi_request_count") == 0
    assert answer.status == status
    if status in (404, 405):
        assert answer.body == b""
    else:
        assert answer.json["error_type"] == "validation"
        assert answer.headers["content-type"] == "application/json"


async def test_a_wrong_method_names_the_right_ones() -> None:
    async with serve() as server:
        answer = await server.get("/generate")
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"")


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401), ("Bearer wrong", 401), ("Bearer", 401), ("Bearer ", 401), ("secret", 401), ("Basic secret", 401),
        ("Bearer SECRET", 401), ("Bearer secret ", 200), ("Bearer secretx", 401), ("Bearer  secret", 401),
        ("Bearer secret", 200), ("bearer secret", 200), ("BEARER secret", 200),
    ],
)  # fmt: skip
async def test_the_key_is_exact_and_its_scheme_is_not(authorization: str | None, status: int) -> None:
    async with serve(answering("a"), http=http(api_key="secret")) as server:
        headers = {} if authorization is None else {"authorization": authorization}
        answer = await server.post("/generate", {"inputs": "x"}, **headers)
    assert answer.status == status
    if status == 401:
        assert answer.body == b""
        assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize("path", GUARDED)
async def test_guarded_routes_need_the_key_before_their_body_is_read(path: str) -> None:
    async with serve(http=http(api_key="secret")) as server:
        assert (await server.post(path, b"{", **{"content-type": "text/plain"})).status == 401
        for spelling in ("/" + path, path + "/", path.upper() + "X", "/." + path, path + ";", path + "%2f"):
            assert (await server.post(spelling, BODY)).status in (401, 404)


@pytest.mark.parametrize("path", OPEN)
async def test_open_routes_need_no_key(path: str) -> None:
    async with serve(http=http(api_key="secret")) as server:
        assert (await server.get(path)).status == 200


async def test_every_answer_varies_with_the_origin_and_has_a_name() -> None:
    async with serve(answering("a"), http=http(api_key="k")) as server:
        answers = [
            await server.get("/health"), await server.get("/nope"), await server.post("/generate", BODY),
            await server.post("/generate", BODY, authorization="Bearer k"),
            await server.post("/generate_stream", BODY, authorization="Bearer k"),
            await server.post("/generate", b"{", authorization="Bearer k"),
        ]  # fmt: skip
    assert [answer.status for answer in answers] == [200, 404, 401, 200, 200, 400]
    for answer in answers:
        assert answer.headers["vary"] == "origin, access-control-request-method, access-control-request-headers"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "server" not in answer.headers
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ((), "http://a", "*"), (("http://a", "http://b"), "http://b", "http://b"), (("http://a",), "http://c", None),
        (("http://a",), None, None), (("*",), "http://c", "*"),
    ],
)  # fmt: skip
async def test_origins(allowed: tuple[str, ...], origin: str | None, answered: str | None) -> None:
    async with serve(http=http(cors_allow_origin=allowed)) as server:
        answer = await server.get("/health", **({"origin": origin} if origin else {}))
    assert answer.headers.get("access-control-allow-origin") == answered


@pytest.mark.parametrize("path", ["/generate", "/nope", "/health"])
async def test_a_preflight_is_answered_on_any_path(path: str) -> None:
    async with serve(http=http(api_key="secret")) as server:
        answer = await server.request("OPTIONS", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-methods"] == "GET,POST"
    assert {"content-type", "authorization"} <= set(answer.headers["access-control-allow-headers"].split(","))


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_X", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("ä", False), ("", False)],
)
async def test_a_request_keeps_its_name_if_it_is_one(given: str, kept: bool) -> None:
    async with serve() as server:
        answer = await server.get("/health", **{"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is kept


async def test_a_server_that_is_ending_serves_no_new_request() -> None:
    async with serve() as server:
        server.services.draining = True
        answer = await server.post("/generate", BODY)
        health = await server.get("/health")
        assert (await server.get("/metrics")).status == 200
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert answer.json == {"error": "the server is shutting down", "error_type": "healthcheck"}
    assert "retry-after" in answer.headers
    assert (health.status, health.json["status"]) == (503, "draining")


async def test_a_bug_is_an_error_without_details() -> None:
    def respond(request: object) -> list[int]:
        raise AssertionError

    async with serve(respond) as server:
        server.supervisor.submit = respond  # type: ignore[assignment]
        answer = await server.post("/generate", BODY)
        assert server.services.inference.idle
    assert (answer.status, answer.json) == (500, {"error": "internal error", "error_type": "internal"})


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"), [(0.0, "1", "1000"), (1.5, "2", "1500"), (1e9, "60", "60000")]
)
def test_times_to_retry(seconds: float, whole: str, milliseconds: str) -> None:
    assert retry_headers(Overloaded(seconds)) == {"retry-after": whole, "retry-after-ms": milliseconds}
    assert retry_headers(Unavailable(retry_after_s=seconds))["retry-after"] == whole
    assert retry_headers(ValidationError("x")) == {}


def test_errors_are_answered_with_their_own_status() -> None:
    response = error_response(TemplateError("x"))
    assert response.status == 422
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {"error": "Template error: x", "error_type": "template_error"}


async def test_a_large_body_is_refused_after_the_key_was_checked() -> None:
    async with serve(http=http(api_key="k"), limits=Limits(payload_limit=100)) as server:
        large = json.dumps({"inputs": "x" * 200}).encode()
        assert (await server.post("/generate", large)).status == 401
        answer = await server.post("/generate", large, authorization="Bearer k")
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert answer.json == {
        "error": "Failed to buffer the request body: length limit exceeded", "error_type": "validation"
    }  # fmt: skip


async def test_a_request_that_cannot_be_parsed_has_a_name_too() -> None:
    async with serve() as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /info HTTP/1.1\r\nHost: x\r\nBad\x00Header: x\r\n\r\n")
        answer = (await reader.read()).lower()
        writer.close()
    assert b" 400 " in answer.splitlines()[0]
    assert b"\r\nx-request-id: " in answer


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/completions"])
async def test_every_line_of_a_request_has_its_name(path: str, caplog: pytest.LogCaptureFixture) -> None:
    names = []

    class Names(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            names.append((record.getMessage(), bound().get("request_id")))
            return True

    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(watcher := Names())
    async with serve(answering("a")) as server:
        for name in ("one", "two"):  # on one connection
            assert (await server.post(path, BODY, **{"x-request-id": name})).status == 200
        await server.post(path, {**BODY, "parameters": {"top_k": 0}, "temperature": -1}, **{"x-request-id": "three"})
    caplog.handler.removeFilter(watcher)
    told = [name for message, name in names if message == "Success" or "strictly positive" in message]
    assert told == ["one", "two", "three"]


async def test_what_is_refused_is_counted_once_by_its_reason() -> None:
    async with serve(answering("a"), http=http(api_key="k"), limits=Limits(payload_limit=100)) as server:
        key = {"authorization": "Bearer k"}
        bad = {"inputs": "x", "parameters": {"top_k": 0}}
        await server.post("/generate", BODY)
        await server.post("/generate", bad, **key)
        await server.post("/generate_stream", bad, **key)
        await server.post("/generate", {"inputs": "x" * 200}, **key)
        await server.post("/generate", b"{", **key)
        await server.post("/generate", BODY, **key)
        reasons = ("unauthorized", "invalid", "too_large", "overloaded")
        counts = [await server.metric(f'tgi_request_rejected{{reason="{reason}"}}') for reason in reasons]
    assert counts == [1, 3, 1, 0]
