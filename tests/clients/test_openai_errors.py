"""Every refusal raises the exception of the `openai` package that names its cause; only what may help is retried."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.server.serving import Server, answering, serve
from tgi.config import Http, Limits
from tgi.errors import GenerationError, IncompleteGeneration

BUSY = Limits(max_concurrent_requests=1)


def client_of(server: Server, key: str = "-", retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.url + "/v1", api_key=key, max_retries=retries)


async def ask(client: AsyncOpenAI, **options: Any) -> Any:
    return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], **options)


async def test_a_wrong_key_is_an_authentication_error() -> None:
    async with serve(answering("a"), http=Http(hostname="127.0.0.1", port=0, api_key="secret")) as server:
        async with client_of(server, "wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await ask(client)
        async with client_of(server, "secret") as client:
            assert (await ask(client)).choices[0].message.content == "a"


async def test_an_unknown_path_is_a_not_found_error() -> None:
    async with serve() as server, client_of(server) as client:
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="m", input="x")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_parameter_is_an_unprocessable_entity_error(stream: bool) -> None:
    async with serve() as server, client_of(server) as client:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await ask(client, frequency_penalty=3, stream=stream)
    assert caught.value.body == "Input validation error: `frequency_penalty` must be >= -2.0 and <= 2.0"
    assert caught.value.response.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_server_is_a_rate_limit_error_that_says_when_to_retry(stream: bool) -> None:
    async with serve(answering("a"), limits=BUSY) as server, client_of(server) as client:
        server.supervisor.hold()
        waiting = asyncio.create_task(ask(client))
        while not server.supervisor.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client, stream=stream)
        assert caught.value.body == "Model is overloaded"
        assert int(caught.value.response.headers["retry-after-ms"]) >= 1000
        server.supervisor.release()
        assert (await waiting).choices[0].message.content == "a"


async def test_a_refused_request_is_sent_again_after_the_time_it_was_told() -> None:
    async with serve(answering("a"), limits=BUSY) as server, client_of(server, retries=2) as client:
        server.supervisor.hold()
        first = asyncio.create_task(ask(client))
        while not server.supervisor.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        began = time.monotonic()
        second = asyncio.create_task(ask(client))
        while not await server.metric('tgi_request_failure{err="overloaded"}'):  # noqa: ASYNC110
            await asyncio.sleep(0)
        server.supervisor.release()
        assert (await first).choices[0].message.content == "a"
        assert (await second).choices[0].message.content == "a"
        assert time.monotonic() - began >= 1.0  # `retry-after-ms` is never less; the package's own first wait is 0.5 s
        assert await server.metric("tgi_request_success") == 2


async def test_who_gives_up_is_told_the_server_was_full() -> None:
    async with serve(answering("a"), limits=BUSY) as server, client_of(server, retries=1) as client:
        server.supervisor.hold()
        first = asyncio.create_task(ask(client))
        while not server.supervisor.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with pytest.raises(openai.RateLimitError):
            await ask(client)
        assert await server.metric('tgi_request_failure{err="overloaded"}') == 2  # it was sent twice
        server.supervisor.release()
        await first


async def test_a_refusal_of_the_request_itself_is_not_retried() -> None:
    async with serve() as server, client_of(server, retries=3) as client:
        with pytest.raises(openai.UnprocessableEntityError):
            await ask(client, frequency_penalty=3)
        assert await server.metric('tgi_request_failure{err="validation"}') == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [(IncompleteGeneration(), openai.InternalServerError), (GenerationError("out of memory"), openai.APIStatusError)],
)
async def test_a_failure_of_the_server_is_told_as_such(error: Exception, expected: type[Exception]) -> None:
    async with serve(lambda request: [error]) as server, client_of(server) as client:
        with pytest.raises(expected) as caught:
            await ask(client)
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.status_code == error.status  # type: ignore[attr-defined]


async def test_a_failed_engine_is_an_internal_server_error() -> None:
    async with serve() as server, client_of(server) as client:
        server.supervisor.fail()
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client)
    assert caught.value.status_code == 503


async def test_a_failure_inside_a_stream_is_an_api_error() -> None:
    async with serve(lambda request: [97, GenerationError("out of memory")]) as server, client_of(server) as client:
        stream = await ask(client, stream=True)
        assert (await anext(stream)).choices[0].delta.content == "a"
        with pytest.raises(openai.APIError, match="out of memory"):
            await anext(stream)
