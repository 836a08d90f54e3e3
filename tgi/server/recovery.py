"""Keeps an engine running, and its streams whole: restart, resubmission, isolation of the request that kills it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tgi import log
from tgi.config import Config
from tgi.engine import process
from tgi.engine.client import Death, EngineClient, PromptReport, Step, Token
from tgi.engine.messages import EngineReady, EngineRequest, FinishReason, StepStats
from tgi.errors import EngineGone, GenerationError, IncompleteGeneration, ModelError, Unavailable
from tgi.server.journal import Journal, JournalGap, Sequence
from tgi.server.observer import Observer

__all__ = ["EngineSupervisor", "RestartBudget", "Token", "TokenStream"]

logger = logging.getLogger(__name__)


class TokenStream:
    """The tokens of one request, as they are generated: an asynchronous iterator for one consumer.

    Iteration ends after the token that carries a finish reason. Memory is bounded by the request's own length: tokens
    wait here for a slow consumer, nothing else does.

    Raises (while iterating): GenerationError when the engine failed this request and only this request.
    """

    def __init__(self, request: EngineRequest, on_close: Callable[[int], None]) -> None:
        self.request = request
        self.scheduled_at: float | None = None  # monotonic seconds; when it left the engine's waiting queue
        self.facts = log.bound()  # what its request's log lines carry
        self.prompt: PromptReport | None = None  # if asked for, set before the first token is yielded
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


@dataclass(slots=True)
class RestartBudget:
    """How many engines in a row may die before they were of any use (spec/reliability.md R11)."""

    limit: int = 5
    fruitful_steps: int = 20  # an engine that completed as many was of use
    fruitful_s: float = 10.0  # so was one that stood ready this long, and died with nothing to do
    first_delay_s: float = 0.1
    longest_delay_s: float = 5.0
    fruitless: int = 0

    @property
    def spent(self) -> bool:
        """Whether another restart is pointless."""
        return self.fruitless >= self.limit

    def delay_s(self) -> float:
        """How long to wait before the next restart: not at all after an engine that was of use."""
        return min(self.longest_delay_s, self.first_delay_s * 3 ** (self.fruitless - 1)) if self.fruitless else 0.0


class EngineSupervisor:
    """Owns the engine, whichever process it is at the moment, and the journal that outlives it.

    `state` is "starting", "ready", "recovering", "draining" or "failed". While it recovers, streams pause and new
    requests queue. `runner` names the runner factory for the engine process (see `engine.process.start`).
    """

    def __init__(
        self, config: Config, model_path: Path, *, runner: str = process.RUNNER, budget: RestartBudget | None = None,
        first: process.EngineHandle | None = None,
    ) -> None:  # fmt: skip
        self.ready: EngineReady
        self.restarts = 0
        self.last_stats: StepStats | None = None
        self.observer = Observer()
        self.failed = asyncio.Event()  # set when the engine cannot be restarted any more
        self._config = config
        self._model_path = model_path
        self._runner = runner
        self._budget = budget or RestartBudget()
        self._first = first  # an engine that was started before we were there
        self._state = "starting"
        self._draining = False
        self._ids = itertools.count(1)
        self._journal = Journal()
        self._streams: dict[int, TokenStream] = {}
        self._client: EngineClient | None = None
        self._ready_at = 0.0  # monotonic
        self._num_steps = 0  # of the current engine
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """What to answer health checks."""
        return "draining" if self._draining and self._state != "failed" else self._state

    @property
    def journal(self) -> Journal:
        """What is known of all live sequences."""
        return self._journal

    @property
    def engine_pid(self) -> int | None:
        """The process id of the engine, when there is one that can generate."""
        return None if self._client is None else self._client.pid

    async def start(self) -> EngineReady:
        """Start the first engine, and watch over it and its successors.

        Raises: ModelError when it cannot generate.
        """
        try:
            await self._launch()
        except EngineGone as error:
            raise ModelError(error.message, hint="SIGKILL usually means that the machine ran out of memory") from error
        self._task = asyncio.create_task(self._supervise(), name="engine supervisor")
        return self.ready

    async def wait_failed(self) -> None:
        """Wait until the engine cannot be restarted any more."""
        await self.failed.wait()

    def next_id(self) -> int:
        """A request id that was not given before."""
        return next(self._ids)

    def submit(self, request: EngineRequest) -> TokenStream:
        """Generate a sequence. It waits while the engine is being restarted.

        Raises: Unavailable when there will be no engine any more.
        """
        if self._state == "failed":
            raise Unavailable("the engine failed and could not be restarted")
        stream = TokenStream(request, self._abort)
        self._streams[request.id] = stream
        self._journal.add(request)
        self._submit_due()
        return stream

    def drain(self) -> None:
        """Report that no new requests are wanted; running ones go on, through restarts if need be."""
        self._draining = True

    async def close(self) -> None:
        """End the engine. Streams that are not complete fail."""
        self.drain()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            self._client = None
        self._fail_all(Unavailable("the server is shutting down"))

    # What the engine says (`engine.client.Listener`)

    def begun(self, ids: tuple[int, ...]) -> None:
        """These requests left the waiting queue; their first step begins."""
        for request_id in ids:
            sequence = self._journal.get(request_id)
            if sequence is not None:
                sequence.begun = True
                stream = self._streams[request_id]
                if stream.scheduled_at is None:
                    stream.scheduled_at = time.monotonic()

    def stepped(self, step: Step) -> None:
        """A step is complete: hand out its tokens."""
        arrived = time.monotonic()
        self._num_steps += 1
        if self._num_steps >= self._budget.fruitful_steps:
            self._budget.fruitless = 0
        self.last_stats = step.stats
        for request_id, token in step.tokens:
            try:
                new = self._journal.record(request_id, token.index, token.id)
            except JournalGap as error:
                facts = {"facts": self._streams[request_id].facts}
                logger.error("request %d: %s; restarts so far: %d", request_id, error, self.restarts, extra=facts)
                self._end(request_id, IncompleteGeneration())
                continue
            if new:
                self._deliver(request_id, token, step.prompts.get(request_id))
        self.observer.step(step.stats, time.monotonic() - arrived)

    def idled(self, free_blocks: int) -> None:
        """The engine has no work: aborts took it, or it has just begun."""
        self.observer.idle(free_blocks)

    def refused(self, ids: tuple[int, ...], reason: str) -> None:
        """These requests failed; the engine goes on."""
        self.observer.refuse(len(ids), reason, self._journal.methods(ids))
        for request_id in ids:
            sequence = self._journal.get(request_id)
            if sequence is not None:
                sequence.submitted = False  # the engine has forgotten it: nothing to abort
                self._end(request_id, GenerationError(reason))

    # Sequences

    def _deliver(self, request_id: int, token: Token, prompt: PromptReport | None) -> None:
        stream = self._streams[request_id]
        if prompt is not None:
            stream.prompt = prompt
        stream.push(token)
        sequence = self._journal.get(request_id)
        assert sequence is not None
        if sequence.paused_at is not None:
            self.observer.resume(time.monotonic() - sequence.paused_at)
            sequence.paused_at = None
        if token.finish:
            sequence.submitted = False
            self._end(request_id, None)
        elif sequence.suspect:
            self._acquit(sequence)

    def _acquit(self, sequence: Sequence) -> None:
        """A suspect gained a token. It makes room for the next suspect, which has to be alone."""
        self._journal.clear(sequence)
        if self._journal.isolating and self._client is not None:
            self._client.abort((sequence.request.id,))
            sequence.submitted = sequence.begun = False
        self._submit_due()

    def _abort(self, request_id: int) -> None:
        """The consumer closed its stream."""
        self._end(request_id, None)

    def _end(self, request_id: int, error: Exception | None) -> None:
        """Forget a sequence here, and in the engine if that has it."""
        sequence = self._journal.remove(request_id)
        stream = self._streams.pop(request_id, None)
        if sequence is not None and sequence.submitted and self._client is not None:
            self._client.abort((request_id,))
        if stream is not None and error is not None:
            stream.fail(error)
        self._submit_due()

    def _submit_due(self) -> None:
        if self._state == "ready" and self._client is not None:
            for sequence in self._journal.due():
                sequence.submitted = True
                self._client.add(sequence.resubmission())

    # Engines

    async def _launch(self) -> None:
        started, self._first = self._first, None
        self._client, self.ready = await EngineClient.start(
            self._config, self._model_path, runner=self._runner, started=started
        )
        self._config = _with_limits(self._config, self.ready)
        self._ready_at = time.monotonic()
        self._num_steps = 0
        self._state = "ready"
        self.idled(self.ready.num_blocks)

    async def _supervise(self) -> None:
        try:
            while self._client is not None:
                death = await self._client.run(self)
                self._client = None
                self._state = "recovering"
                self._mourn(death)
                await self._restart(death.cause)
                self._submit_due()
        except Exception:
            logger.exception("the engine's supervisor failed")
            if self._client is not None:
                await self._client.close()
                self._client = None
            self._give_up("a bug in the supervisor")

    def _mourn(self, death: Death) -> None:
        """Draw the conclusions from a death: was the engine of use, and did a sequence kill it."""
        logger.error("engine %s; %d sequences wait for another one", death.how, len(self._journal))
        if death.traceback:
            logger.error("%s", death.traceback)
        self.observer.die(len(self._journal), self._journal.running)
        idle = not any(sequence.submitted for sequence in self._journal)
        stood = idle and time.monotonic() - self._ready_at >= self._budget.fruitful_s
        self._count_death(fruitful=stood or self._num_steps >= self._budget.fruitful_steps)
        culprit = self._journal.crashed(death.request_ids)
        if culprit is not None:
            facts = {"facts": self._streams[culprit.request.id].facts}
            logger.error("request %d killed the engine alone; it fails", culprit.request.id, extra=facts)
            self._end(culprit.request.id, GenerationError("the engine crashed on this request"))
            self._budget.fruitless = 0  # the cause is found: the next engine has a future

    def _count_death(self, *, fruitful: bool) -> None:
        if fruitful:
            self._budget.fruitless = 0
        elif self.restarts:  # the first engine was no restart
            self._budget.fruitless += 1

    async def _restart(self, cause: str) -> None:
        """Start engines until one can generate or the budget is spent; `cause` is what the last one died of."""
        while not self._budget.spent:
            await asyncio.sleep(self._budget.delay_s())
            self.restarts += 1
            self.observer.restart(cause)
            cause = "loading"  # of what its successors die, if they do so here
            try:
                await self._launch()
            except EngineGone as error:
                logger.error("%s", error.message)
                self._count_death(fruitful=False)
            except ModelError as error:
                self._give_up(error.message)
                return
            else:
                logger.warning("engine restarted; %d sequences continue", len(self._journal))
                return
        self._give_up(f"{self._budget.fruitless} engines in a row died before they were of use")

    def _give_up(self, reason: str) -> None:
        logger.error("the engine cannot be restarted: %s", reason)
        self._state = "failed"
        self._fail_all(GenerationError("the engine failed and could not be restarted"))
        self.failed.set()

    def _fail_all(self, error: Exception) -> None:
        for sequence in self._journal:
            sequence.submitted = False
            self._end(sequence.request.id, error)


def _with_limits(config: Config, ready: EngineReady) -> Config:
    """The configuration for an engine's successors: memory may be scarcer then, what clients were promised may not."""
    cache = ready.num_blocks * ready.block_size
    return dataclasses.replace(
        config,
        limits=dataclasses.replace(config.limits, max_total_tokens=min(ready.max_total_tokens, cache)),
        batching=dataclasses.replace(
            config.batching,
            max_batch_total_tokens=cache,
            max_batch_prefill_tokens=min(ready.max_step_tokens, cache),
            max_batch_size=ready.max_rows,
        ),
    )
