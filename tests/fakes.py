"""Stand-ins for the expensive parts: an engine supervisor without processes, and a runner without a model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tgi.engine.client import Token
from tgi.engine.messages import EngineReady, EngineRequest, FinishReason, MemoryLedger, StepStats
from tgi.errors import RequestError, Unavailable
from tgi.server.recovery import TokenStream


def make_ready(**changes: Any) -> EngineReady:
    """What a small engine says of itself; `changes` replace fields."""
    fields: dict[str, Any] = {
        "model_type": "fake", "dtype": "float32", "device": "cpu", "quantize": None, "kernels": "fake",
        "vocab_size": 256, "num_blocks": 64, "block_size": 16, "max_total_tokens": 1024, "max_step_tokens": 256,
        "max_rows": 128, "load_s": 0.0, "warmup_s": 0.0,
        "memory": MemoryLedger(weights=1, activations=1, kv_block=1, kv_cache=64, available=1000),
    }  # fmt: skip
    return EngineReady(**(fields | changes))


def echo(request: EngineRequest) -> Iterable[int]:
    """The prompt's tokens, again and again."""
    return itertools.cycle(np.frombuffer(request.prompt_ids, np.int32).tolist())


class FakeSupervisor:
    """`tgi.server.recovery.EngineSupervisor` without an engine: every stream is answered in the test's event loop.

    `respond(request)` gives the token ids of a request; yielding an exception fails the stream with it, and ending
    early leaves the stream open (as a slow engine would). Generation stops at `stop_ids` and `max_new_tokens` as in
    the engine. Log-probabilities are -0.5 for chosen tokens, -1, -2, ... for the top tokens (the chosen one first),
    -0.25 for prompt tokens. `hold()` stops all streams until `release()`; `aborted` collects the ids of closed ones.
    """

    def __init__(
        self, respond: Callable[[EngineRequest], Iterable[int | RequestError]] = echo, *, ready: EngineReady | None = None
    ) -> None:
        self.respond = respond
        self.ready = ready or make_ready()
        self.state = "starting"
        self.restarts = 0
        self.last_stats: StepStats | None = None
        self.on_step: Callable[[StepStats], None] | None = None
        self.failed = asyncio.Event()
        self.engine_pid: int | None = None
        self.requests: list[EngineRequest] = []
        self.aborted: list[int] = []
        self._ids = itertools.count(1)
        self._go = asyncio.Event()
        self._go.set()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def start(self) -> EngineReady:
        """Become ready."""
        self.state = "ready"
        self.engine_pid = 1
        return self.ready

    async def close(self) -> None:
        """Cancel what is still generating."""
        self.state = "draining"
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_failed(self) -> None:
        """Wait until `fail()` was called."""
        await self.failed.wait()

    def fail(self) -> None:
        """Behave as a supervisor whose restart budget is spent."""
        self.state = "failed"
        self.failed.set()

    def next_id(self) -> int:
        """A request id that was not given before."""
        return next(self._ids)

    def submit(self, request: EngineRequest) -> TokenStream:
        """Answer the request in a task of its own."""
        if self.state == "failed":
            raise Unavailable
        self.requests.append(request)
        stream = TokenStream(request, self._abort)
        self._tasks[request.id] = asyncio.get_running_loop().create_task(self._answer(stream))
        return stream

    def hold(self) -> None:
        """Generate nothing until `release()`."""
        self._go.clear()

    def release(self) -> None:
        """Go on generating."""
        self._go.set()

    def _abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()

    async def _answer(self, stream: TokenStream) -> None:
        request = stream.request
        await self._go.wait()
        stream.scheduled_at = time.monotonic()
        if request.prompt_logprobs:
            length = len(request.prompt_ids) // 4
            stream.prompt_logprobs = [None] + [-0.25] * (length - 1)
        for index, answer in enumerate(self.respond(request)):
            await self._go.wait()
            await asyncio.sleep(0)
            if isinstance(answer, RequestError):
                stream.fail(answer)
                return
            token = self._token(request, index, answer)
            stream.push(token)
            if token.finish:
                self._tasks.pop(request.id, None)
                return

    def _token(self, request: EngineRequest, index: int, token_id: int) -> Token:
        finish = FinishReason.NONE
        if index + 1 >= request.max_new_tokens:
            finish = FinishReason.LENGTH
        elif token_id in request.stop_ids:
            finish = FinishReason.STOP_ID
        top = tuple(((token_id + rank) % self.ready.vocab_size, -1.0 - rank) for rank in range(request.top_tokens))
        return Token(index, token_id, -0.5, top, finish)
