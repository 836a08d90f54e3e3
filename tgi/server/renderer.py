"""Chat templates from the front end's side: a process that renders them, and is replaced when a template runs away.

A template is a program that came with the model, and a conversation is its input: neither may stop the event loop, so
rendering has a process of its own (spec/reliability.md section 7, V05 and V06).
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import socket
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from tgi import children
from tgi.errors import EngineGone, ModelError, TemplateError
from tgi.server import template_worker
from tgi.server.template_worker import CPU_S, Known, Refused, Render, Rendered, Reply
from tgi.server.templates import DEFAULT, TOOL_USE, Facts
from tgi.wire import AsyncChannel

log = logging.getLogger("tgi.server.renderer")

WALL_S = 10.0  # for one rendering on a machine that is too busy to give its process a second
_PROBE = [{"role": "user", "content": "Hello"}]
_PARAMETERS = {"type": "object", "properties": {"word": {"type": "string", "description": "The word."}}}
_TOOL = {"type": "function", "function": {"name": "f", "description": "Looks it up.", "parameters": _PARAMETERS}}
_RAN_AWAY = f"the template needs more than {CPU_S:g} s or too much memory"


class Renderer:
    """Renders a model's chat templates. `sources` are they by name, `tokens` the special tokens they know by name.

    The worker starts with `start`, or with the first rendering. Belongs to the event loop that uses it first.
    """

    def __init__(self, sources: Mapping[str, str], tokens: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._tokens = dict(tokens)
        self._worker: _Worker | None = None
        self._facts: dict[str, Facts] = {}
        self._lock = asyncio.Lock()
        self._asking: set[asyncio.Task[str]] = set()

    async def start(self) -> None:
        """Start the worker and try every template.

        Raises: ModelError when a template runs away or tries to leave its sandbox. One that cannot be used for other
                reasons is logged: only conversations need it.
        """
        if DEFAULT not in self._sources:
            log.warning("conversations are refused: %s", TemplateError("template not found"))
        try:
            for name in self._sources:
                facts = await self._facts_of(name)
                if facts.missing is not None:
                    log.warning("conversations are refused: %s", facts.missing)
                    continue
                for tools in [None, [_TOOL]] if facts.tools else [None]:
                    await self._try(name, tools)
        except _Unsafe as error:
            self.close()
            raise ModelError(
                f"the model's chat template is refused: {error}",
                hint="use the template of a model you trust: --tokenizer-config-path <file>", exit_code=16,
            ) from error  # fmt: skip

    async def facts(self, *, with_tools: bool) -> Facts:
        """What the template for a conversation with or without tools expects."""
        name = self._choose(with_tools)
        return await self._facts_of(name) if name else Facts()

    def source(self, *, with_tools: bool) -> str:
        """The text of the template for a conversation with or without tools."""
        return self._sources.get(self._choose(with_tools) or "", "")

    async def render(
        self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any] | None = None, *,
        tools: Sequence[Any] | None = None, add_generation_prompt: bool = True, continued: bool | None = None,
    ) -> str:  # fmt: skip
        """The prompt of a conversation, as `ChatTemplate.render` gives it. Raises: TemplateError."""
        name = self._choose(bool(tools))
        if name is None:
            raise TemplateError("template not found")
        encode = msgspec.json.encode
        return await self._ask(Render(
            template=name, messages=encode(messages), extra=encode(extra), tools=encode(tools),
            add_generation_prompt=add_generation_prompt, continued=continued,
        ))  # fmt: skip

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _choose(self, with_tools: bool) -> str | None:
        if with_tools and TOOL_USE in self._sources:
            return TOOL_USE
        return DEFAULT if DEFAULT in self._sources else None

    async def _facts_of(self, name: str) -> Facts:
        if not self._facts:
            async with self._lock:
                await self._ready()
        return self._facts[name]

    async def _try(self, name: str, tools: Sequence[Any] | None) -> None:
        probe = Render(template=name, messages=msgspec.json.encode(_PROBE), tools=msgspec.json.encode(tools))
        try:
            await self._ask(probe)
        except _Unsafe:
            raise
        except TemplateError as error:
            log.debug("the chat template does not take a single question: %s", error)

    async def _ask(self, request: Render) -> str:
        # A client that leaves must not leave its answer behind for the next one: the exchange is always completed.
        asking = asyncio.create_task(self._exchange(request))
        self._asking.add(asking)
        asking.add_done_callback(self._done)
        return await asyncio.shield(asking)

    def _done(self, asking: asyncio.Task[str]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # seen, even if nobody waits for it any more

    async def _exchange(self, request: Render) -> str:
        async with self._lock:
            worker = await self._ready()
            try:
                async with asyncio.timeout(WALL_S):
                    reply = await worker.ask(request)
            except (EngineGone, TimeoutError):
                self.close()
                raise _Unsafe(_RAN_AWAY) from None
        if isinstance(reply, Refused):
            raise (_Unsafe if reply.forbidden else TemplateError)(reply.message.removeprefix("Template error: "))
        assert isinstance(reply, Rendered)
        return reply.prompt

    async def _ready(self) -> _Worker:
        """The worker, started if there is none. Raises: TemplateError when it cannot read the templates."""
        if self._worker is None:
            self._worker = worker = await _Worker.start(self._sources, self._tokens)
            try:
                async with asyncio.timeout(WALL_S):
                    known = await worker.channel.receive()
            except (EngineGone, TimeoutError):
                self.close()
                raise _Unsafe(_RAN_AWAY) from None
            assert isinstance(known, Known)
            self._facts = known.facts
        return self._worker


class _Unsafe(TemplateError):
    """The template ran away, or tried to leave its sandbox."""


class _Worker:
    """A running process and its channel."""

    def __init__(self, process: BaseProcess, channel: AsyncChannel[Render, Reply]) -> None:
        self._process = process
        self.channel = channel

    @classmethod
    async def start(cls, sources: dict[str, str], tokens: dict[str, str]) -> _Worker:
        """Start a process. Call it on the main thread: Linux ends the child with the thread that started it."""
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=template_worker.main, args=(theirs, os.getpid(), sources, tokens), daemon=True,
            name=template_worker.PROCESS_NAME,
        )  # fmt: skip
        with theirs:
            children.start(process)
        return cls(process, await AsyncChannel.open(ours, Reply))

    async def ask(self, request: Render) -> Reply:
        """One rendering. Raises: EngineGone when the process ended instead."""
        self.channel.send(request)
        return await self.channel.receive()

    def end(self) -> None:
        """Kill the process; it has nothing to lose."""
        self.channel.close()
        self._process.kill()
        self._process.join()
        self._process.close()
