"""Permits are given back, streams are closed, and failures are counted, whatever ends a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import aiohttp
import pytest

from tests.server.serving import EOS, Server, answering, serve
from tgi.config import Limits
from tgi.engine.messages import EngineRequest
from tgi.errors import GenerationError, IncompleteGeneration, Overloaded
from tgi.server.inference import Generation, collect, merge
from tgi.server.schemas import GenerateParameters
from tgi.server.validation import Prepared


async def prepare(server: Server, **parameters: object) -> Prepared:
    return await server.services.validator.validate("hello", GenerateParameters(**parameters))  # type: ignore[arg-type]


async def until(condition: object) -> None:
    """Let the loop run until the condition (a callable) holds; pytest's timeout ends a test that waits for ever."""
    while not condition():  # type: ignore[operator]  # noqa: ASYNC110  (any state may be waited for)
        await asyncio.sleep(0)


async def exhaust(generations: list[Generation]) -> None:
    """Merge, and forget every token."""
    async with contextlib.aclosing(merge(generations)) as tokens:
        async for _ in tokens:
            pass


async def test_permits_are_counted_and_given_back() -> None:
    async with serve(limits=Limits(max_concurrent_requests=3)) as server:
        inference = server.services.inference
        with inference.admit(2):
            assert not inference.idle
            with pytest.raises(Overloaded), inference.admit(2):
                pass
            with pytest.raises(KeyError), inference.admit(1):
                raise KeyError
            with inference.admit(1):
                pass
        assert inference.idle


async def test_a_retry_is_advised_between_one_second_and_a_minute() -> None:
    async with serve(limits=Limits(max_concurrent_requests=1)) as server:
        for count in (2, 10_000):
            with pytest.raises(Overloaded) as refused, server.services.inference.admit(count):
                pass
            assert 1 <= refused.value.retry_after_s <= 60


@pytest.mark.parametrize("body", [{"inputs": ""}, {"inputs": "x", "parameters": {"max_new_tokens": 1}}])
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_every_request_gives_its_permit_back(path: str, body: dict[str, object]) -> None:
    async with serve(limits=Limits(max_concurrent_requests=1)) as server:
        for _ in range(3):
            await server.post(path, body)
        assert server.services.inference.idle
        assert await server.metric('tgi_request_failure{err="overloaded"}') == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "x"}),
        ("/generate_stream", {"inputs": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 3, "stream": True}),
        ("/v1/completions", {"prompt": ["x", "y"]}),
    ],
)
async def test_a_client_that_leaves_frees_everything(path: str, body: dict[str, object]) -> None:
    async with serve() as server:
        server.supervisor.hold()
        leaving = asyncio.create_task(server.post(path, body))
        await until(lambda: server.supervisor.requests)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        await until(lambda: server.services.inference.idle)
        ids = sorted(request.id for request in server.supervisor.requests)
        assert sorted(server.supervisor.aborted) == ids
        assert await server.metric('tgi_request_failure{err="dropped"}') == 1


async def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_everything() -> None:
    async with serve() as server, aiohttp.ClientSession() as session:
        body = json.dumps({"inputs": "x"}).encode()
        response = await session.post(
            server.url + "/generate_stream", data=body, headers={"content-type": "application/json"}
        )
        await response.content.readuntil(b"\n\n")
        response.close()
        await until(lambda: server.services.inference.idle)
        assert server.supervisor.aborted == [server.supervisor.requests[0].id]


async def test_sequences_are_collected_in_their_order() -> None:
    async with serve(answering("abc")) as server:
        prepared = [await prepare(server) for _ in range(3)]
        with server.services.inference.generate(prepared, 0.0) as generations:
            pieces = await collect(generations)
        assert [[piece.text for piece in sequence] for sequence in pieces] == [["a", "b", "c", "</s>"]] * 3
        assert [generation.text for generation in generations] == ["abc"] * 3


async def test_merged_sequences_keep_their_own_order() -> None:
    async with serve(answering("abc")) as server:
        prepared = [await prepare(server) for _ in range(3)]
        seen: dict[int, str] = {0: "", 1: "", 2: ""}
        with server.services.inference.generate(prepared, 0.0) as generations:
            async with contextlib.aclosing(merge(generations)) as tokens:
                async for index, piece in tokens:
                    seen[index] += piece.delta
        assert seen == {0: "abc", 1: "abc", 2: "abc"}


@pytest.mark.parametrize("merged", [False, True])
async def test_the_first_failure_ends_all_sequences(merged: bool) -> None:
    def respond(request: EngineRequest) -> list[object]:
        return [97] if request.id == 1 else [GenerationError("lost")]

    async with serve(respond) as server:
        prepared = [await prepare(server) for _ in range(2)]
        before = asyncio.all_tasks()
        with server.services.inference.generate(prepared, 0.0) as generations, pytest.raises(GenerationError):
            await (exhaust(generations) if merged else collect(generations))
        assert server.supervisor.aborted == [server.supervisor.requests[0].id]
        await until(lambda: asyncio.all_tasks() <= before)


async def test_tokens_that_end_without_a_reason_are_a_failure() -> None:
    async with serve(answering("a", 98)) as server:
        with server.services.inference.generate([await prepare(server)], 0.0) as (generation,):
            await generation.__anext__()
            generation.close()
            with pytest.raises(IncompleteGeneration):
                await generation.collect()


async def test_phases_are_measured() -> None:
    async with serve(answering("ab")) as server:
        with server.services.inference.generate([await prepare(server)], 0.0) as (generation,):
            pieces = await generation.collect()
        timings = generation.timings
        assert 0 < timings.queued <= timings.scheduled <= timings.done
        assert [piece.finish for piece in pieces] == [None, None, "eos_token"]
        assert pieces[-1].id == EOS


async def test_one_success_line_a_request_tells_facts_and_no_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ["PROMPTWORD", "ANSWERWORD", "STOPWORD"]
    async with serve(answering("ANSWERWORD")) as server:
        body = {"inputs": "PROMPTWORD", "parameters": {"do_sample": True, "seed": 7, "stop": ["STOPWORD"]}}
        await server.post("/generate", body)
        await server.post("/generate", {"inputs": "PROMPTWORD", "parameters": {"top_k": 0}})
        chat = {"messages": [{"role": "user", "content": "PROMPTWORD"}], "stop": "STOPWORD", "stream": True}
        await server.post("/v1/chat/completions", chat)
    lines = [record for record in caplog.records if record.message == "Success"]
    assert [line.span["name"] for line in lines] == ["generate", "chat_completions"]
    span = lines[0].span
    assert {"total_time", "validation_time", "queue_time", "inference_time", "time_per_token"} < set(span)
    assert span["seed"] == "Some(7)"
    assert span["parameters"].startswith("GenerateParameters { best_of: None, temperature: None, ")
    assert not [secret for secret in secrets for record in caplog.records if secret in str(record.__dict__)]
