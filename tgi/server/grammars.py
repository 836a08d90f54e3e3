"""Grammars from the front end's side: what requests ask for, and a process that compiles it and may be killed.

A grammar is a program from a client. It is judged and compiled in a process of its own before its request is admitted
(spec/reliability.md section 7, V07 to V10), so that a bad one fails only that request.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from tgi import children
from tgi.errors import EngineGone, InvalidGrammar, ValidationError
from tgi.guidance.grammar import ANY_OBJECT, Constraint
from tgi.guidance.limits import GrammarError, check_regex, check_size
from tgi.server import grammar_worker
from tgi.server.grammar_worker import CPU_S, MEMORY_BYTES, Compiled, Refused, Reply
from tgi.server.json_schemas import meant_text
from tgi.server.schemas import Grammar, OpenAiRequest, ResponseFormat, StructuredOutputs
from tgi.wire import AsyncChannel

WALL_S = 10.0  # for one grammar on a machine that is too busy to give its process two seconds
CACHED_GRAMMARS = 256
CACHED_BYTES = 256 << 20
NOT_SUPPORTED = "grammar is not supported"  # TGI's words
NOT_VALID = "grammar is not valid: "
_NAMES = {"json": "schema", "lark": "grammar", "choice": "list of choices"}


class Grammars:
    """Compiles what requests ask for, and remembers what came of it.

    `special_tokens` are those of the model that a Lark grammar may name. `on_compiled` hears of the seconds each
    compilation took, and of the bytes remembered after it. The worker starts with the first grammar. Belongs to the
    event loop that uses it first.
    """

    def __init__(
        self, special_tokens: Sequence[str] = (), *, on_compiled: Callable[[float, int], None] | None = None
    ) -> None:
        self._on_compiled = on_compiled
        self._special_tokens = tuple(special_tokens)
        self._worker: _Worker | None = None
        self._lock = asyncio.Lock()
        self._compiling: dict[Constraint, asyncio.Task[Reply]] = {}
        self._known: OrderedDict[Constraint, Reply] = OrderedDict()
        self.cached_bytes = 0  # of constraints and what came of them

    async def compile(self, asked: Grammar) -> str:
        """The grammar as `SamplingParams.grammar`. Raises: ValidationError saying what is wrong with it."""
        return await self._known_or_compiled(as_constraint(asked))

    async def check(self, built: str) -> str:
        """A grammar put together from compiled ones, as it is. Raises: ValidationError when it is too much."""
        return await self._known_or_compiled(Constraint("built", built))

    async def _known_or_compiled(self, constraint: Constraint) -> str:
        reply = self._known.get(constraint)
        if reply is None:
            # Shared by all who ask for it meanwhile, and completed when its client leaves: the worker's answer must
            # not be left behind for the next one.
            compiling = self._compiling.get(constraint)
            if compiling is None:
                start = time.monotonic()
                compiling = self._compiling[constraint] = asyncio.create_task(self._compile(constraint))
                compiling.add_done_callback(lambda task: self._done(constraint, task, start))
            reply = await asyncio.shield(compiling)
        else:
            self._known.move_to_end(constraint)
        if isinstance(reply, Refused):
            raise InvalidGrammar(NOT_VALID + reply.reason)
        return reply.grammar

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _done(self, constraint: Constraint, task: asyncio.Task[Reply], start: float) -> None:
        del self._compiling[constraint]
        if task.cancelled() or task.exception() is not None:
            return
        self._known[constraint] = task.result()
        self.cached_bytes += _size(constraint, task.result())
        while len(self._known) > CACHED_GRAMMARS or self.cached_bytes > CACHED_BYTES:
            self.cached_bytes -= _size(*self._known.popitem(last=False))
        if self._on_compiled is not None:
            self._on_compiled(time.monotonic() - start, self.cached_bytes)

    async def _compile(self, constraint: Constraint) -> Reply:
        async with self._lock:
            for _ in range(2):  # a worker may also die of something else, and the grammar is not to blame
                if self._worker is None:
                    self._worker = await _Worker.start(self._special_tokens)
                worker = self._worker
                try:
                    async with asyncio.timeout(WALL_S):
                        return await worker.compile(constraint)
                except (EngineGone, TimeoutError) as error:
                    self._worker = None
                    if worker.end() == signal.SIGPROF or isinstance(error, TimeoutError):
                        break
            else:
                return Refused(f"compiling it needs more than {MEMORY_BYTES >> 20} MiB")
        return Refused(f"compiling it takes more than {CPU_S:g} s")


class _Worker:
    """A running process and its channel."""

    def __init__(self, process: BaseProcess, channel: AsyncChannel[Constraint, Reply]) -> None:
        self._process = process
        self._channel = channel
        self._ended_by: int | None = None

    @classmethod
    async def start(cls, special_tokens: Sequence[str]) -> _Worker:
        """Start a process. Call it on the main thread: Linux ends the child with the thread that started it."""
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=grammar_worker.main, args=(theirs, os.getpid(), special_tokens), daemon=True,
            name=grammar_worker.PROCESS_NAME,
        )  # fmt: skip
        with theirs:
            children.start(process)
        return cls(process, await AsyncChannel.open(ours, Reply))

    async def compile(self, constraint: Constraint) -> Reply:
        """One compilation. Raises: EngineGone when the process ended instead."""
        self._channel.send(constraint)
        return await self._channel.receive()

    def end(self) -> int:
        """Kill the process; it has nothing to lose. Returns: the signal that ended it, which may be an earlier one."""
        if self._ended_by is None:
            self._channel.close()
            self._process.kill()
            self._process.join()
            self._ended_by = -(self._process.exitcode or 0)
            self._process.close()
        return self._ended_by


def as_constraint(asked: Grammar) -> Constraint:
    """What a request asks for, in the words of `tgi.guidance`. Raises: ValidationError.

    What is too large is refused here: it is not worth a process's while, nor a place in the cache.
    """
    constraint = _constraint(asked)
    try:
        if constraint.kind == "regex":
            check_regex(constraint.text)
        else:
            check_size(constraint.text, _NAMES[constraint.kind])
    except GrammarError as error:
        raise InvalidGrammar(f"{NOT_VALID}{error}") from None
    return constraint


def asked_grammar(body: OpenAiRequest) -> Grammar | None:
    """What a request to an OpenAI route asks for, by `response_format` or by vLLM's fields; None for plain text.

    Raises: ValidationError when it asks in more than one way, or for something that cannot be honoured.
    """
    guided = StructuredOutputs(
        json=body.guided_json, regex=body.guided_regex, choice=body.guided_choice, grammar=body.guided_grammar,
        whitespace_pattern=body.guided_whitespace_pattern,
    )  # fmt: skip
    try:
        found = [_formatted(body.response_format), *_guided(guided), *_guided(body.structured_outputs)]
    except ValueError as error:  # of a `Grammar`
        raise InvalidGrammar(NOT_VALID + str(error)) from None
    asked = [grammar for grammar in found if grammar is not None]
    if len(asked) > 1:
        raise ValidationError("only one of `response_format`, `guided_*` and `structured_outputs` may be used")
    return asked[0] if asked else None


def _constraint(asked: Grammar) -> Constraint:
    value = asked.value
    if asked.type == "json_schema":
        value = value["schema"]
    if asked.type in ("regex", "lark"):
        return Constraint("regex" if asked.type == "regex" else "lark", value)
    if asked.type == "choice":
        return Constraint("choice", msgspec.json.encode(value).decode())
    if isinstance(value, str):
        return Constraint("json", meant_text(value))
    if not isinstance(value, dict):
        raise ValidationError(NOT_SUPPORTED)
    return Constraint("json", meant_text(msgspec.json.encode(value).decode()))


def _formatted(asked: ResponseFormat | None) -> Grammar | None:
    """TGI's forms of `response_format`, and OpenAI's."""
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_schema" and asked.json_schema is not None:
        return Grammar(type="json_schema", value=asked.json_schema)
    if asked.schema is not None and (asked.type != "json_object" or asked.value is not None):
        raise ValidationError("`response_format.schema` goes with the type `json_object`, instead of `value`")
    value = asked.schema if asked.value is None else asked.value
    if asked.type == "json_object" and value is None:
        return Grammar(type="json", value=ANY_OBJECT)
    if value is None:
        raise ValidationError(f"`response_format` of type `{asked.type}` lacks its `value`")
    return Grammar(type=asked.type, value=value)


def _guided(asked: StructuredOutputs | None) -> list[Grammar | None]:
    """vLLM's forms."""
    if asked is None:
        return []
    for name in ("structural_tag", "whitespace_pattern", "disable_any_whitespace", "disable_additional_properties"):
        if getattr(asked, name):
            raise ValidationError(f"`structured_outputs.{name}` is not supported")
    forms: dict[str, Any] = {"json": asked.json, "regex": asked.regex, "choice": asked.choice, "lark": asked.grammar}
    found: list[Grammar | None] = [
        Grammar(type=type, value=value)  # type: ignore[arg-type]
        for type, value in forms.items()
        if value is not None
    ]
    return [*found, Grammar(type="json", value=ANY_OBJECT)] if asked.json_object else found


def _size(constraint: Constraint, reply: Reply) -> int:
    return len(constraint.text) + len(reply.grammar if isinstance(reply, Compiled) else reply.reason)
