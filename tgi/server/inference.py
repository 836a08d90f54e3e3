"""From a prepared request to its tokens: permits, the engine's streams, and their joining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgi.engine.messages import FinishReason
from tgi.errors import IncompleteGeneration, Overloaded, RequestError
from tgi.server import tracing
from tgi.server.description import described, optional
from tgi.server.detokenizer import Detokenizer
from tgi.server.metrics import Metrics
from tgi.server.schemas import GenerateParameters
from tgi.server.timing import Timings, words
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Prepared

if TYPE_CHECKING:
    from tgi.server.recovery import EngineSupervisor

log = logging.getLogger("tgi.server.inference")

_FAILURES = {"overloaded": "overloaded", "template_error": "template", "incomplete_generation": "incomplete",
             "generation": "generation", "healthcheck": "generation"}  # fmt: skip
_LONGEST_RETRY_S = 60.0


@dataclass(slots=True, frozen=True)
class Piece:
    """One generated token, as text."""

    index: int  # 0 for the first
    id: int
    text: str  # the token's own text
    special: bool
    logprob: float
    top: tuple[tuple[int, float], ...]
    delta: str  # what it adds to the answer
    finish: str | None  # `length`, `eos_token` or `stop_sequence` on the last token


class Generation:
    """One sequence: an asynchronous iterator of `Piece`, to be closed by whoever made it.

    Raises (while iterating): GenerationError when the engine failed it; IncompleteGeneration when its tokens ended
    without a finish reason.
    """

    def __init__(self, prepared: Prepared, timings: Timings, inference: Inference) -> None:
        self.prepared = prepared
        self.timings = timings
        self.generated = 0
        self.finish: str | None = None
        self._deltas: list[str] = []
        self._metrics = inference.metrics
        self._tokenizer = inference.tokenizer
        self._detokenizer = Detokenizer(inference.tokenizer, prepared.stops, prepared.stop_rule)
        self._stream = inference.supervisor.submit(prepared.engine_request(inference.supervisor.next_id()))
        timings.queued = time.monotonic()
        self._previous = timings.queued

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._deltas)

    @property
    def prompt_logprobs(self) -> list[float | None]:
        """Log-probabilities of the prompt's tokens, once the first token is there; empty if not asked for."""
        return self._stream.prompt.logprobs if self._stream.prompt is not None else []

    @property
    def prompt_top(self) -> list[tuple[tuple[int, float], ...]]:
        """The tokens most likely at each of the prompt's positions, beside `prompt_logprobs`; none for the first."""
        return self._stream.prompt.top if self._stream.prompt is not None else []

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Piece:
        if self.finish is not None:
            raise StopAsyncIteration
        try:
            token = await self._stream.__anext__()
        except StopAsyncIteration:
            raise IncompleteGeneration from None
        now = time.monotonic()
        method = "decode" if token.index else "prefill"
        if token.index == 0:
            self.timings.scheduled = max(self.timings.queued, min(now, self._stream.scheduled_at or now))
            self._metrics.first_token.observe(now - self.timings.received)
        else:
            self._metrics.inter_token.observe(now - self._previous)
        self._previous = now
        ended = token.finish is FinishReason.STOP_ID
        decoded = self._detokenizer.push(token.id, last=token.finish is not FinishReason.NONE, ended=ended)
        decoded_at = time.monotonic()
        self._metrics.batch_durations["decode", method].observe(decoded_at - now)
        self._metrics.skipped_tokens.observe(0)  # no speculation: a step gives a request one token
        self._deltas.append(decoded.delta)
        self.generated += 1
        if token.finish is FinishReason.LENGTH:
            self.finish = "length"
        elif token.finish is FinishReason.STOP_ID:
            self.finish = "eos_token"
        elif decoded.stopped:
            self.finish = "stop_sequence"
            self.close()
        if self.finish is not None:
            self.timings.done = now
        special = self._tokenizer.is_special(token.id)
        self._metrics.batch_durations["filter", method].observe(time.monotonic() - decoded_at)
        return Piece(token.index, token.id, decoded.text, special, token.logprob, token.top, decoded.delta, self.finish)

    async def collect(self) -> list[Piece]:
        """All tokens."""
        return [piece async for piece in self]

    def close(self) -> None:
        """Free what the engine holds for it, unless it is complete."""
        self._stream.close()


class Inference:
    """Admits requests, and generates them."""

    def __init__(
        self, supervisor: EngineSupervisor, tokenizer: Tokenizer, metrics: Metrics, *, max_concurrent_requests: int
    ) -> None:
        self.supervisor = supervisor
        self.tokenizer = tokenizer
        self.metrics = metrics
        self._permits = max_concurrent_requests
        self._used = 0
        self._released_at = time.monotonic()
        self._release_interval_s = 1.0  # between freed permits, smoothed

    @property
    def idle(self) -> bool:
        """No request is admitted."""
        return self._used == 0

    @property
    def running(self) -> int:
        """Requests that are admitted, each choice of a `best_of` or an `n` being one."""
        return self._used

    @contextlib.contextmanager
    def watch(self) -> Iterator[float]:
        """Count a request, and its failure if it ends in one; yields the moment of receipt, for `generate`."""
        self.metrics.requests.inc()
        try:
            yield time.monotonic()
        except RequestError as error:
            self.failed(error)
            raise
        except (asyncio.CancelledError, ConnectionError):
            self.metrics.failures.labels("dropped").inc()
            raise
        except Exception:
            self.metrics.failures.labels("generation").inc()
            raise

    def failed(self, error: RequestError) -> None:
        """Count and log a failure, wherever the client is told of it."""
        kind = error.error_type
        log.error("%s", type(error).__name__ if error.quotes_client else error, extra={"kind": kind})
        if (span := tracing.current()) is not None:
            span.failed(kind)
        self.metrics.failures.labels(_FAILURES.get(kind, "validation")).inc()

    @contextlib.contextmanager
    def admit(self, count: int = 1) -> Iterator[None]:
        """Hold `count` permits. Raises: Overloaded at once when they are not there: nobody waits for a permit."""
        if self._used + count > self._permits:
            raise Overloaded(min(_LONGEST_RETRY_S, max(1.0, self._release_interval_s * count)))
        self._used += count
        try:
            yield
        finally:
            self._used -= count
            now = time.monotonic()
            interval = min(_LONGEST_RETRY_S, (now - self._released_at) / count)
            self._release_interval_s += 0.1 * (interval - self._release_interval_s)
            self._released_at = now

    @contextlib.contextmanager
    def generate(self, prepared: Sequence[Prepared], received: float) -> Iterator[list[Generation]]:
        """Give sequences to the engine; on leaving, whatever is unfinished is aborted. Raises: Unavailable."""
        generations: list[Generation] = []
        try:
            for one in prepared:
                self.metrics.input_length.observe(one.input_length)
                self.metrics.max_new_tokens.observe(one.max_new_tokens)
                generations.append(Generation(one, Timings(received), self))
            yield generations
        finally:
            for generation in generations:
                generation.close()

    def succeeded(self, name: str, generation: Generation, parameters: GenerateParameters) -> None:
        """Count and log a complete sequence; never a word of what was said."""
        timings, generated = generation.timings, generation.generated
        self.metrics.succeeded(timings, generated)
        facts = {
            "parameters": described(parameters),
            "total_time": words(timings.total_s),
            "validation_time": words(timings.validation_s),
            "queue_time": words(timings.queue_s),
            "inference_time": words(timings.inference_s),
            "time_per_token": words(timings.per_token_s(generated)),
            "seed": optional(generation.prepared.seed),
        }
        if (span := tracing.current()) is not None:
            span.succeeded(facts, timings, generated)
        log.info("Success", extra={"span": {"name": name, **facts}})


async def collect(generations: Sequence[Generation]) -> list[list[Piece]]:
    """All tokens of all sequences, in the order of the sequences; the first failure ends them all."""
    if len(generations) == 1:
        return [await generations[0].collect()]
    tasks = [asyncio.create_task(generation.collect()) for generation in generations]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _cancel(tasks)


async def merge(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Piece], None]:
    """The tokens of all sequences as they come, with the index of their sequence; the first failure ends them all.

    Use it inside `contextlib.aclosing`: leaving it early must end its tasks.
    """
    if len(generations) == 1:
        async for piece in generations[0]:
            yield 0, piece
        return
    # Bounded, so that a slow client holds back the tasks: tokens then wait as ids in their streams, not here as text.
    queue: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue(maxsize=len(generations))

    async def forward(index: int) -> None:
        try:
            async for piece in generations[index]:
                await queue.put((index, piece))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(forward(index)) for index in range(len(generations))]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
