"""What happens around every handler: CORS, errors as JSON, the api key, the end of the server."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tgi.errors import Overloaded, RequestError, Unavailable
from tgi.log import bind, unbind, unexpected
from tgi.server.protocol import Connection
from tgi.server.responses import encode, error_body
from tgi.server.services import SERVICES

log = logging.getLogger("tgi.server.http")

Prepare: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[None]]

# aiohttp 3.14 warns of plain strings as keys; the releases before it know nothing else.
_NAME: Any = web.RequestKey("tgi.request_id", str) if hasattr(web, "RequestKey") else "tgi.request_id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_VARY = "origin, access-control-request-method, access-control-request-headers"
_EXPOSED = (
    "x-request-id, x-compute-type, x-compute-characters, x-compute-time, x-total-time, x-validation-time, "
    "x-queue-time, x-inference-time, x-time-per-token, x-prompt-tokens, x-generated-tokens, retry-after, retry-after-ms"
)
_CLOSING = {408, 413}  # the rest of the body is not worth reading


@web.middleware
async def name_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bind the request's id to every line that is logged for it."""
    bound = bind(request_id=request_id(request))
    try:
        return await handler(request)
    finally:
        unbind(bound)


def request_id(request: web.Request) -> str:
    """What the request is called in its answer and in the log: the client's own name for it, if that is one."""
    name = request.get(_NAME)
    if name is None:
        given = request.headers.get("x-request-id", "")
        name = request[_NAME] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    return str(name)


@web.middleware
async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer `OPTIONS` on any path, also on those that do not exist."""
    if isinstance(request.protocol, Connection):
        request.protocol.headers_arrived()
    if request.method == "OPTIONS":
        headers = {
            "access-control-allow-methods": "GET,POST",
            "access-control-allow-headers": "content-type,authorization,x-request-id",
        }
        return web.Response(headers=headers)
    return await handler(request)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into an answer: ours into JSON, unknown paths and methods into an empty body."""
    try:
        return await handler(request)
    except RequestError as error:
        request.app[SERVICES].metrics.reject(error.status)
        return error_response(error)
    except web.HTTPException as error:
        allow = {"allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.Response(status=error.status, headers=allow)
    except ConnectionError:
        raise  # the client is gone
    except Exception as error:
        unexpected(log, "unhandled error", error)
        return web.Response(status=500, body=error_body("internal error", "internal"), content_type="application/json")


def error_response(error: RequestError) -> web.Response:
    """The JSON answer of a refused or failed request, with the time to try again where there is one."""
    response = web.Response(
        status=error.status, body=error_body(str(error), error.error_type), content_type="application/json",
        headers=retry_headers(error),
    )  # fmt: skip
    if error.status in _CLOSING:
        response.force_close()
    return response


def retry_headers(error: RequestError) -> dict[str, str]:
    """`retry-after` in whole seconds from 1 to 60, and `retry-after-ms`."""
    if not isinstance(error, Overloaded | Unavailable):
        return {}
    seconds = min(60.0, max(1.0, error.retry_after_s))
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(int(seconds * 1000))}


def authorize(api_key: str, open_handlers: Collection[object]) -> Middleware:
    """Refuse requests without the key, but for `open_handlers`.

    What is open is decided on the handler the request was routed to, never on the text of its path. Digests of one
    length are compared, so the time taken tells nothing.
    """
    expected = hashlib.sha256(api_key.encode()).digest()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        routed = request.match_info.http_exception is None
        if routed and request.match_info.handler not in open_handlers:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
            if not (hmac.compare_digest(given, expected) and scheme.lower() == "bearer"):
                request.app[SERVICES].metrics.reject(401)
                return web.Response(status=401)
        return await handler(request)

    return check


def refuse_while_draining(open_handlers: Collection[object]) -> Middleware:
    """Once the server is ending, kept-alive connections get 503 and are closed."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.app[SERVICES].draining and request.match_info.handler not in open_handlers:
            request.app[SERVICES].metrics.reject(503)
            response = error_response(Unavailable("the server is shutting down"))
            response.force_close()
            return response
        return await handler(request)

    return check


def finish_headers(allowed_origins: Collection[str]) -> Prepare:
    """Add what every response carries, and take away what tells too much; names are lower case, as TGI writes them."""
    any_origin = not allowed_origins or "*" in allowed_origins

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = [(name.lower(), value) for name, value in response.headers.items() if name.lower() != "server"]
        headers.append(("vary", _VARY))
        headers.append(("x-request-id", request_id(request)))
        headers.append(("access-control-expose-headers", _EXPOSED))
        origin = request.headers.get("origin")
        if any_origin:
            headers.append(("access-control-allow-origin", "*"))
        elif origin in allowed_origins:
            headers.append(("access-control-allow-origin", origin or ""))
        response.headers.clear()
        response.headers.extend(headers)

    return prepare


def health_body(state: str) -> bytes:
    """The answer of an unhealthy server: TGI's error, and what keeps it from serving."""
    return encode({"error": "unhealthy", "error_type": "healthcheck", "status": state})
