"""V19, V20, V25 and V35: no spelling of a path opens a door, leads out of the house, or to a door nobody described."""

from __future__ import annotations

import hmac

import pytest

from tests.security.harmless import LEAK, exchange, refused, statuses
from tests.server.serving import answering, serve
from tgi.config import Http
from tgi.server.app import GUARDED_PAGES, GUARDED_ROUTES, OPEN_ROUTES, make_app, routes
from tgi.server.openapi import UNDESCRIBED, document

LOCKED = Http(hostname="127.0.0.1", port=0, api_key="a key", aip_predict_route="/predict")
PATHS = [*(path for path, _ in GUARDED_ROUTES), "/predict"]


def spellings(path: str) -> list[str]:
    """One path as a proxy, a client or an attacker may write it."""
    head, _, tail = path.rpartition("/")
    return [
        path, f"/{path}", f"//{path}", f"/.{path}", f"/x/..{path}", f"{head}/./{tail}", f"{head}//{tail}", f"{path}/",
        f"{path};", f"{path};x=y", f"{path}?x=y", f"{path}%20", f"{path}%00", f"{path}.json", f"{path}#", path.upper(),
        path.title(), path.replace("/", "%2f"), path.replace("/", "%2F"), path.replace("/", "\\"), f"/health/..{path}",
        f"/health/%2e%2e{path}", f"/health%2f..{path}", "".join(f"%{ord(letter):02x}" for letter in path),
        f"/%{ord(path[1]):02x}{path[2:]}" if len(path) > 1 else "/%2f", f"http://x{path}", f"HTTP://health{path}",
        f"http://x/health/..{path}", f"*{path}", f"/docs/..{path}", f"/v1/models/..{path}",
    ]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_no_spelling_of_a_path_needs_no_key(path: str) -> None:
    body = b'{"inputs":"x","prompt":"x","messages":[],"instances":[],"tokens":[]}'
    async with serve(answering("a"), http=LOCKED) as server:
        for spelling in spellings(path):
            request = (
                b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%s" % (spelling.encode(), len(body), body)
            )
            answer = await exchange(server, request)
            assert set(statuses(answer)) <= {400, 401, 404, 405}, spelling
        assert server.supervisor.requests == []


@pytest.mark.parametrize("authorization", [
    "", "a key", "Basic a key", "Bearer", "Bearer ", "Bearer a", "Bearer a keyx", "Bearer A KEY", "Bearer  a key",
    "Bearer a key,Bearer x", "Bearer\ta key", "bearer:a key",
])  # fmt: skip
async def test_only_the_key_is_the_key(authorization: str) -> None:
    async with serve(answering("a"), http=LOCKED) as server:
        for path in PATHS:
            assert (await server.post(path, {"inputs": "x"}, authorization=authorization)).status == 401
        assert (await server.get("/tokenizer_info", authorization=authorization)).status == 401


async def test_a_key_is_compared_as_a_whole_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def record(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return compare(given, expected)

    monkeypatch.setattr(hmac, "compare_digest", record)
    async with serve(http=LOCKED) as server:
        for key in ("", "a", "a keyx", "x" * 8000, "é"):
            assert (await server.post("/tokenize", {"inputs": "x"}, authorization=f"Bearer {key}")).status == 401
        assert (await server.post("/tokenize", {"inputs": "x"}, authorization="Basic a key")).status == 401
    assert [(len(given), len(expected)) for given, expected in compared] == [(32, 32)] * 6


async def test_the_methods_of_a_guarded_route_open_nothing() -> None:
    async with serve(answering("a"), http=LOCKED) as server:
        for path in PATHS:
            for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "X"):
                status = (await server.request(method, path)).status
                assert status in (400, 405) or (path == "/" and method in ("GET", "HEAD"))
        assert server.supervisor.requests == []


async def test_all_but_health_can_be_closed() -> None:
    closed = Http(hostname="127.0.0.1", port=0, api_key="k", protect_all=True)
    health = {"/", "/health", "/ping"}
    async with serve(http=closed) as server:
        for path, _ in (*OPEN_ROUTES, *GUARDED_PAGES):
            expected = 200 if path in health else 401
            path = path.partition("{")[0] + "x" * ("{" in path)
            assert (await server.request("GET", path, allow_redirects=False)).status == expected, path
            assert (await server.get(path, authorization="Bearer k")).status in (200, 404), path


@pytest.mark.parametrize("path", [
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/docs/../../etc/passwd", "/docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/docs//etc/passwd", "/docs/%00", "/docs/start.js%00.png", "/docs/static/swagger-ui.css", "/docs/__init__.py",
    "/v1/models/../../../etc/passwd", "/v1/models/%2fetc%2fpasswd", "/v1/models//etc/passwd", "/static/x",
])  # fmt: skip
async def test_no_path_leads_out(path: str) -> None:
    async with serve() as server:
        answer = await exchange(server, b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
    assert statuses(answer)[0] in (400, 404)
    assert not LEAK.search(answer.partition(b"\r\n\r\n")[2])
    assert b"root:" not in answer


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\x00b", "%2e%2e/x", "owner/name@main"])
async def test_names_of_adapters_and_models_are_never_paths(name: str) -> None:
    async with serve(answering("a")) as server:
        refused(await server.post("/generate", {"inputs": "x", "parameters": {"adapter_id": name}}))
        chat = await server.post("/v1/chat/completions", {"messages": [], "model": name})
        completion = await server.post("/v1/completions", {"prompt": "x", "model": name})
    assert (chat.status, chat.json["model"]) == (200, name)  # any name is accepted, and only repeated
    assert completion.json["model"] == "tiny"


async def test_the_routes_are_those_that_are_described() -> None:
    async with serve() as server:
        app = make_app(server.services)
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(method.upper(), path) for path, item in document(routes(Http()))["paths"].items() for method in item}
    pages = {("GET", route.path) for route in routes(Http()) if route.handler in UNDESCRIBED}
    assert served == described | pages


@pytest.mark.parametrize("path", [
    "/debug", "/admin", "/start_profile", "/stop_profile", "/reset_prefix_cache", "/sleep", "/wake_up",
    "/load_lora_adapter", "/v1/load_lora_adapter", "/update_weights", "/server_info", "/stop", "/shutdown",
    "/collective_rpc", "/openapi.json", "/v2", "/v2/health/live", "/livez", "/env", "/config", "/.env", "/.git/config",
])  # fmt: skip
async def test_nothing_can_be_administered_over_http(path: str) -> None:
    async with serve() as server:
        assert (await server.get(path)).status == 404
        assert (await server.post(path, {})).status == 404
