"""Server-sent events, byte for byte as TGI writes them (spec/http-api.md section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from aiohttp import web

from tgi.errors import GenerationError, IncompleteGeneration, RequestError
from tgi.log import unexpected
from tgi.server.responses import encode

KEEP_ALIVE_S = 15.0
RECOVERING_S = 5.0
WRITE_TIMEOUT_S = 60.0
_INTERVAL_S = 1.0
_DONE = b"data: [DONE]\n\n"

log = logging.getLogger("tgi.server.sse")


class EventStream:
    """One response of events: a context manager that sends the headers, and ends the response.

    An error raised inside becomes the last event, in the shape of the route (`openai` or TGI's own), is given to
    `on_failure` and goes no further; nothing else can be told to a client that has seen status 200. Comments keep a
    silent connection alive: `:` every 15 s, and `: recovering` every 5 s while the engine is being replaced. A client
    that takes no byte for `WRITE_TIMEOUT_S` is cut off, which cancels its handler.
    """

    def __init__(
        self, request: web.Request, headers: Mapping[str, str], *, openai: bool, recovering: Callable[[], bool],
        on_failure: Callable[[RequestError], None], on_slow_client: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.response = web.StreamResponse(
            headers={
                "content-type": "text/event-stream",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
                **headers,
            }
        )
        self._request = request
        self._openai = openai
        self._recovering = recovering
        self._on_failure = on_failure
        self._on_slow_client = on_slow_client
        self._clock = clock
        self._written_at = clock()
        self._writing = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EventStream:
        await self.response.prepare(self._request)  # the client knows of its admission before there is any event
        self._written_at = self._clock()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._watcher is not None:
            self._watcher.cancel()
        if isinstance(error, ConnectionError) or not isinstance(error, Exception | None):
            return False  # the client is gone
        if error is not None:
            await self._fail(error)
        elif self._openai:
            await self._write(_DONE)
        await self.response.write_eof()
        return True

    async def send(self, event: Any) -> None:
        """One event, in one write. Raises: ConnectionError when the client is gone."""
        await self._write(b"data: %b\n\n" % encode(event))

    async def tick(self) -> bool:
        """Do what the clock asks for; False when the client was cut off."""
        silent_s = self._clock() - self._written_at
        if self._writing:
            if silent_s < WRITE_TIMEOUT_S:
                return True
            self._on_slow_client()
            if self._request.transport is not None:
                self._request.transport.abort()
            return False
        if self._recovering():
            if silent_s >= RECOVERING_S:
                await self._write(b": recovering\n\n")
        elif silent_s >= KEEP_ALIVE_S:
            await self._write(b":\n\n")
        return True

    async def _fail(self, error: Exception) -> None:
        if not isinstance(error, RequestError):
            unexpected(log, "a stream failed", error)
            error = GenerationError("internal error")
        self._on_failure(error)
        message, error_type = str(error), error.error_type
        if isinstance(error, IncompleteGeneration):
            message, error_type = "Incomplete generation stream", "incomplete_generation_stream"
        if self._openai:
            await self.send({"error": {"message": message, "http_status_code": error.status}})
            await self._write(_DONE)
        else:
            await self.send({"error": message, "error_type": error_type})

    async def _write(self, data: bytes) -> None:
        self._writing, self._written_at = True, self._clock()
        try:
            await self.response.write(data)
        finally:
            self._writing, self._written_at = False, self._clock()

    async def _watch(self) -> None:
        with contextlib.suppress(ConnectionError):  # the handler hears of it by itself
            while await self.tick():  # noqa: ASYNC110  (it is the clock that is waited for)
                await asyncio.sleep(_INTERVAL_S)
