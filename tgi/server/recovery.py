"""Keeps an engine running, and its streams whole: restart, resubmission, isolation of the request that kills it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tgi.engine.client import Token
from tgi.engine.messages import EngineRequest, FinishReason

__all__ = ["Token", "TokenStream"]


class TokenStream:
    """The tokens of one request, as they are generated: an asynchronous iterator for one consumer.

    Iteration ends after the token that carries a finish reason. Memory is bounded by the request's own length: tokens
    wait here for a slow consumer, nothing else does.

    Raises (while iterating): GenerationError when the engine failed this request and only this request.
    """

    def __init__(self, request: EngineRequest, on_close: Callable[[int], None]) -> None:
        self.request = request
        self.scheduled_at: float | None = None  # monotonic seconds; when it left the engine's waiting queue
        self.prompt_logprobs: list[float | None] | None = None  # set before the first token is yielded
        self._on_close = on_close
        self._tokens: deque[Token] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Token:
        while not self._tokens:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._tokens.popleft()

    def close(self) -> None:
        """Abort the request in the engine unless it is finished. Idempotent; what was received can still be read."""
        if not self._ended:
            self._end(None)
            self._on_close(self.request.id)

    def push(self, token: Token) -> None:
        """Hand one token to the consumer (for the supervisor)."""
        if not self._ended:
            self._tokens.append(token)
            self._ended = token.finish is not FinishReason.NONE
            self._wake()

    def fail(self, error: Exception) -> None:
        """End the stream with an error, raised after the tokens already received (for the supervisor)."""
        if not self._ended:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._ended = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
