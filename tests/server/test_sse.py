"""Comments and the end of silent, stalled and broken streams. Events themselves: `routes/`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tgi.errors import IncompleteGeneration, RequestError
from tgi.server.sse import KEEP_ALIVE_S, RECOVERING_S, WRITE_TIMEOUT_S, EventStream


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """One route that streams whatever a test does with its `EventStream`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.recovering = False
        self.failures: list[RequestError] = []
        self.slow = 0

    async def body(self, act: Callable[[EventStream], AsyncIterator[None]], *, openai: bool = False) -> bytes:
        """The bytes a client reads."""

        async def handler(request: web.Request) -> web.StreamResponse:
            async with self.stream(request, openai) as events:
                async for _ in act(events):
                    pass
            return events.response

        app = web.Application()
        app.router.add_get("/", handler)
        async with (
            TestServer(app) as server,
            aiohttp.ClientSession() as session,
            session.get(server.make_url("/")) as response,
        ):
            return await response.read()

    def stream(self, request: web.Request, openai: bool) -> EventStream:
        return EventStream(
            request, {"x-compute-type": "cpu"}, openai=openai, recovering=lambda: self.recovering,
            on_failure=self.failures.append, on_slow_client=self.count, clock=self.clock,
        )  # fmt: skip

    def count(self) -> None:
        self.slow += 1


async def test_silence_is_filled_every_15_seconds() -> None:
    bench = Bench()

    async def act(events: EventStream) -> AsyncIterator[None]:
        for _ in range(10):
            bench.clock.now += KEEP_ALIVE_S / 3
            assert await events.tick()
        await events.send({"a": 1})
        bench.clock.now += KEEP_ALIVE_S - 1
        await events.tick()
        yield

    assert await bench.body(act) == b":\n\n:\n\n:\n\n" + b'data: {"a":1}\n\n'


async def test_recovery_is_told_every_5_seconds() -> None:
    bench = Bench()
    bench.recovering = True

    async def act(events: EventStream) -> AsyncIterator[None]:
        for _ in range(10):
            bench.clock.now += RECOVERING_S / 2
            await events.tick()
        bench.recovering = False
        bench.clock.now += RECOVERING_S
        await events.tick()
        yield

    assert await bench.body(act) == b": recovering\n\n" * 5


@pytest.mark.parametrize(
    ("openai", "expected"),
    [
        (False, b'data: {"error":"Incomplete generation stream","error_type":"incomplete_generation_stream"}\n\n'),
        (
            True,
            b'data: {"error":{"message":"Incomplete generation stream","http_status_code":500}}\n\ndata: [DONE]\n\n',
        ),
    ],
)
async def test_a_stream_without_a_finish_reason_is_incomplete(openai: bool, expected: bytes) -> None:
    bench = Bench()

    async def act(events: EventStream) -> AsyncIterator[None]:
        yield
        raise IncompleteGeneration

    assert await bench.body(act, openai=openai) == expected
    assert len(bench.failures) == 1


async def test_a_bug_ends_a_stream_with_words_and_without_details() -> None:
    bench = Bench()

    async def act(events: EventStream) -> AsyncIterator[None]:
        yield
        raise KeyError("/home/secret")

    body = await bench.body(act)
    assert body == b'data: {"error":"Request failed during generation: internal error","error_type":"generation"}\n\n'


class Stalled(web.StreamResponse):
    """A response whose client takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = asyncio.Event()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self.blocked.set()
        await asyncio.Event().wait()


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    bench = Bench()
    cut = False

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal cut
        events = bench.stream(request, False)
        events.response = stalled = Stalled()
        writing = asyncio.create_task(events.send({}))
        await stalled.blocked.wait()
        bench.clock.now += WRITE_TIMEOUT_S - 1
        assert await events.tick()
        bench.clock.now += 1
        assert not await events.tick()
        cut = request.transport is None or request.transport.is_closing()
        writing.cancel()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handler)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(server.make_url("/"))
    assert (cut, bench.slow) == (True, 1)
