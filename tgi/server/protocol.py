"""HTTP below the routes: connections that neither wait for ever nor repeat what they were sent, and request bodies."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tgi.log import unexpected
from tgi.server.responses import error_body
from tgi.server.schemas import Rejected

HEADER_DEADLINE_S = 10.0
BODY_DEADLINE_S = 30.0
BODY_GRACE_S = 5.0  # afterwards a body must come at `BODY_RATE` at least
BODY_RATE = 1024  # bytes a second
KEEP_ALIVE_S = 75.0
LINGER_S = 2.0  # a refused body is read for so long, so that the client gets to read the refusal

log = logging.getLogger("tgi.server.http")


class Connection(web.RequestHandler):
    """One client's connection.

    aiohttp answers a malformed request with the bytes that offended it and logs them with a traceback; an over-long
    `authorization` header must end up in neither place.
    """

    __slots__ = ("_header_deadline",)

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        settings["access_log"] = None  # one `Success` line a request is written instead
        super().__init__(manager, loop=loop, keepalive_timeout=KEEP_ALIVE_S, lingering_time=LINGER_S, **settings)
        self._header_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time in which the first request's headers must arrive."""
        super().connection_made(transport)
        self._header_deadline = asyncio.get_running_loop().call_later(HEADER_DEADLINE_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the deadline."""
        self.headers_arrived()
        super().connection_lost(exc)

    def headers_arrived(self) -> None:
        """A request is complete but for its body."""
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Our own words for what never reached a route."""
        self.headers_arrived()
        if status == 400 or isinstance(exc, HttpProcessingError):
            log.debug("malformed HTTP request")
            text = "The HTTP request is malformed, or a line or header of it is too long"
            body = error_body(text, "validation")
        else:
            unexpected(log, "unhandled error", exc or RuntimeError(message))
            body = error_body("internal error", "internal")
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        response = web.Response(status=status, body=body, content_type="application/json")
        response.headers.update({"server": "tgi", "x-request-id": secrets.token_hex(16)})
        response.force_close()
        return response


async def read_body(request: web.Request, limit: int) -> bytes:
    """The body of a JSON request, decompressed, at most `limit` bytes.

    Raises: Rejected with status 415 (not JSON), 413 (too large), 408 (too slow) or 400 (broken framing).
    """
    kind = request.content_type
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise Rejected(415, "Expected request with `Content-Type: application/json`")
    if (request.content_length or 0) > limit:
        raise _too_large()
    loop = asyncio.get_running_loop()
    started = loop.time()
    body = bytearray()
    try:
        while True:
            allowed_s = min(BODY_DEADLINE_S, BODY_GRACE_S + len(body) / BODY_RATE)
            async with asyncio.timeout_at(started + allowed_s):
                chunk = await request.content.readany()
            if not chunk:
                return bytes(body)
            body += chunk
            if len(body) > limit:
                raise _too_large()
    except TimeoutError:
        raise Rejected(408, "Failed to buffer the request body: it arrives too slowly") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise Rejected(400, "Failed to buffer the request body: its encoding is broken") from None


def _too_large() -> Rejected:
    return Rejected(413, "Failed to buffer the request body: length limit exceeded")
