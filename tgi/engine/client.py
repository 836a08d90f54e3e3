"""The front end's side of one engine process: from its start to its death, and never beyond."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
from collections.abc import Iterable
from ctypes import c_float
from pathlib import Path
from typing import Protocol

import msgspec

from tgi.config import Config
from tgi.engine import process
from tgi.engine.messages import (
    Abort,
    AddRequest,
    EngineFailed,
    EngineReady,
    EngineRequest,
    FinishReason,
    FromEngine,
    Idle,
    RequestFailed,
    StepBegins,
    StepOutput,
    StepStats,
    ToEngine,
)
from tgi.errors import EngineGone, ModelError
from tgi.sampling import TopTokens
from tgi.wire import AsyncChannel

logger = logging.getLogger(__name__)

_FINISH = tuple(FinishReason)
_FORMS = tuple(f"%.{digits}g" for digits in range(1, 10))
_STACK_DUMP_S = 1.0  # what a silent engine gets to write its stacks before it is killed
_LAST_WORDS_S = 0.5  # what remains in the socket of a dead engine is read within this
_ENDING_S = 0.1  # between closed socket and the end of the process, so that its own status is seen


class Token(msgspec.Struct, frozen=True, gc=False):
    """One generated token of one request."""

    index: int  # position in the request's output: 0 is its first token
    id: int
    logprob: float  # natural logarithm, after processors
    top: tuple[tuple[int, float], ...] = ()  # most likely tokens at this position with their log-probabilities
    finish: FinishReason = FinishReason.NONE


class PromptReport(msgspec.Struct, frozen=True):
    """What the model thought of a prompt, one entry a token; about the first it can say nothing."""

    logprobs: list[float | None]
    top: list[tuple[tuple[int, float], ...]]  # as `Token.top`


class Step(msgspec.Struct, frozen=True):
    """A `StepOutput`, decoded."""

    tokens: list[tuple[int, Token]]  # request id, token
    prompts: dict[int, PromptReport]  # by request id, for requests whose first token is in this step
    stats: StepStats


class Death(msgspec.Struct, frozen=True):
    """How an engine ended."""

    how: str  # "was killed by SIGKILL", "exited with status 1", "failed with `...`": its own reason, if it gave one
    traceback: str = ""
    request_ids: tuple[int, ...] | None = None  # members of the step that failed; None: the engine could not say
    cause: str = "exit"  # or "signal", "exception", "silence"


class Listener(Protocol):
    """Who hears what an engine says. Called on the event loop, in the engine's order."""

    def begun(self, ids: tuple[int, ...]) -> None:
        """These requests left the waiting queue; their first step begins."""

    def stepped(self, step: Step) -> None:
        """A step is complete."""

    def idled(self, free_blocks: int) -> None:
        """Aborts left the engine without work; so many of its blocks are free."""

    def refused(self, ids: tuple[int, ...], reason: str) -> None:
        """These requests failed; the engine goes on."""


def decode(output: StepOutput) -> Step:
    """The columns of a step as tokens."""
    # By memory views: for few tokens, numpy takes longer to be found in memory than all of this takes to run.
    ids: list[int] = memoryview(output.request_ids).cast("q").tolist()
    indices: list[int] = memoryview(output.indices).cast("i").tolist()
    token_ids: list[int] = memoryview(output.token_ids).cast("i").tolist()
    logprobs = _decimals(output.logprobs)
    finish = [_FINISH[reason] for reason in output.finish]
    choices: Iterable[tuple[tuple[int, float], ...]] = itertools.repeat(())
    if output.top:
        choices = [_pairs(output.top[i]) if i in output.top else () for i in range(len(ids))]
    tokens = list(zip(ids, map(Token, indices, token_ids, logprobs, choices, finish), strict=True))
    prompts: dict[int, PromptReport] = {}
    for entry, column in output.prompt_logprobs.items():
        likely = output.prompt_top.get(entry, {})
        at = [_pairs(likely[position]) if position in likely else () for position in range(len(column) // 4)]
        prompts[ids[entry]] = PromptReport([None, *_decimals(column)[1:]], at)
    return Step(tokens, prompts, output.stats)


def _pairs(top: TopTokens) -> tuple[tuple[int, float], ...]:
    return tuple(zip(memoryview(top.token_ids).cast("i").tolist(), _decimals(top.logprobs), strict=True))


def _decimals(column: bytes) -> list[float]:
    """A float32 column as the shortest decimals that name its values: -0.2580618, as TGI's JSON has them."""
    return [_shortest(value) for value in memoryview(column).cast("f").tolist()]


def _shortest(value: float) -> float:
    for form in _FORMS[5:] if 1e-30 < abs(value) < 1e30 else _FORMS:
        decimal = float(form % value)
        if c_float(decimal).value == value:
            return decimal
    return value  # not a number


class EngineClient:
    """One engine process and the conversation with it. Use `start`, then `run`, then `close`."""

    def __init__(
        self, handle: process.EngineHandle, channel: AsyncChannel[ToEngine, FromEngine], step_timeout_s: float
    ) -> None:
        self._handle = handle
        self._channel = channel
        self._step_timeout_s = step_timeout_s
        self._loop = asyncio.get_running_loop()
        self._pending: set[int] = set()
        self._heard_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._buried: str | None = None
        self._silent = False
        self._last_words: EngineFailed | None = None
        self._loop.add_reader(handle.sentinel, self._on_end)

    @classmethod
    async def start(
        cls, config: Config, model_path: Path, *, runner: str = process.RUNNER,
        started: process.EngineHandle | None = None,
    ) -> tuple[EngineClient, EngineReady]:  # fmt: skip
        """Start an engine, unless one is `started` already, and wait until it can generate.

        Raises: ModelError when the engine says that another try cannot help; EngineGone when it died without a word.
        """
        handle = started or process.start(config, model_path, runner=runner)
        channel: AsyncChannel[ToEngine, FromEngine] = await AsyncChannel.open(handle.socket, FromEngine)
        client = cls(handle, channel, config.http.step_timeout)
        try:
            return client, await client._first_message()
        except BaseException:
            await client.close()
            raise

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._handle.pid

    def add(self, request: EngineRequest) -> None:
        """Give the engine a request."""
        if not self._pending:
            self._heard_at = self._loop.time()  # it had no reason to speak before
        self._pending.add(request.id)
        self._channel.send(AddRequest(request))

    def abort(self, ids: Iterable[int]) -> None:
        """Let the engine forget requests. Tokens of a step in flight may still arrive."""
        ids = tuple(ids)
        self._pending.difference_update(ids)
        self._channel.send(Abort(ids))

    async def run(self, listener: Listener) -> Death:
        """Tell the listener all that the engine says, until it is dead. Returns: how it died."""
        self._timer = self._loop.call_later(self._step_timeout_s, self._watch)
        with contextlib.suppress(EngineGone):
            await self._channel.each(functools.partial(self._hear, listener))
        last_words = self._last_words
        if last_words is None:
            how = await self._end()
            killed = "silence" if self._silent else "signal"
            return Death(how, cause=killed if how.startswith("was killed") else "exit")
        await self.close()
        how = f"failed with `{last_words.reason}`"
        return Death(how, last_words.traceback, last_words.request_ids or None, cause="exception")

    def _hear(self, listener: Listener, message: FromEngine) -> None:
        self._heard_at = self._loop.time()
        if isinstance(message, StepOutput):
            step = decode(message)
            if any(message.finish):
                self._pending.difference_update(i for i, token in step.tokens if token.finish)
            listener.stepped(step)
        elif isinstance(message, Idle):
            listener.idled(message.free_blocks)
        elif isinstance(message, StepBegins):
            listener.begun(message.ids)
        elif isinstance(message, RequestFailed):
            self._pending.difference_update(message.ids)
            listener.refused(message.ids, message.reason)
        elif isinstance(message, EngineFailed):
            self._last_words = message

    async def close(self) -> str:
        """End the engine process, whatever it is doing, and wait for its end. Returns: how it ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()
        self._handle.kill()
        await self._ended.wait()
        if self._buried is None:
            self._buried = self._handle.reap()
        return self._buried

    async def _end(self) -> str:
        """How an engine whose socket has closed ends by itself, if it does so soon."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _ENDING_S)
        return await self.close()

    async def _first_message(self) -> EngineReady:
        try:
            message = await self._channel.receive()
        except EngineGone:
            raise EngineGone(f"the engine {await self._end()} while it was loading") from None
        if isinstance(message, EngineReady):
            return message
        if isinstance(message, EngineFailed) and message.fatal:
            raise ModelError(message.reason, hint=message.hint, exit_code=message.exit_code)
        if isinstance(message, EngineFailed):
            logger.error("%s", message.traceback)
            raise EngineGone(f"the engine failed while it was loading: {message.reason}")
        raise EngineGone(f"the engine began with {type(message).__name__}")

    def _on_end(self) -> None:
        """The process has ended: end of file follows in the socket, unless somebody else holds its other end."""
        self._loop.remove_reader(self._handle.sentinel)
        self._ended.set()
        self._loop.call_later(_LAST_WORDS_S, self._channel.close)

    def _watch(self) -> None:
        """Replace an engine that has work and says nothing: its stacks first, in case it is only slow to answer."""
        silent_s = self._loop.time() - self._heard_at
        if self._pending and silent_s >= self._step_timeout_s:
            logger.error("the engine has been silent for %.0f s with %d requests", silent_s, len(self._pending))
            self._handle.dump_stacks()
            self._timer = self._loop.call_later(_STACK_DUMP_S, self._give_up, self._heard_at)
        else:
            wait_s = self._step_timeout_s - (silent_s if self._pending else 0)
            self._timer = self._loop.call_later(wait_s, self._watch)

    def _give_up(self, heard_at: float) -> None:
        if self._heard_at == heard_at:
            self._silent = True
            self._handle.kill()
        else:  # it spoke while its stacks were asked for
            self._watch()
