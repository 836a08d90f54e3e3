"""Code written for TGI's old Python client runs: every method, sync and async, against a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import tgi
from tests.live import LiveServer
from tgi.errors import RateLimitExceededError, UnknownError
from tgi.types import FinishReason, Grammar, GrammarType, Message, Tool

PROMPT = "The capital of France is"
MESSAGES = [Message(role="user", content="Name a colour.")]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris"]}},
                                             "required": ["city"]}}  # fmt: skip


@contextmanager
def answers(status: int, body: bytes) -> Iterator[tuple[str, dict[str, str]]]:
    """A server that always gives one answer; its URL, and the headers of the last request."""
    seen: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.update({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def client(live_server: LiveServer) -> tgi.Client:
    return tgi.Client(live_server.url, timeout=60)


@pytest.fixture
def async_client(live_server: LiveServer) -> tgi.AsyncClient:
    return tgi.AsyncClient(live_server.url, timeout=60)


def test_generate(client: tgi.Client) -> None:
    answer = client.generate(PROMPT, max_new_tokens=6, decoder_input_details=True, top_n_tokens=2)
    assert answer.generated_text
    assert answer.details.finish_reason is FinishReason.Length
    assert (answer.details.generated_tokens, len(answer.details.tokens)) == (6, 6)
    assert answer.details.prefill[0].logprob is None
    assert answer.details.prefill[1].logprob < 0  # type: ignore[operator]
    assert answer.details.top_tokens is not None
    assert all(len(step) >= 2 for step in answer.details.top_tokens)


def test_every_option_of_generate_arrives(client: tgi.Client) -> None:
    answer = client.generate(
        PROMPT, True, 4, 2, 1.1, 0.1, True, None, ["NEVER"], 0.7, 20, 0.9, 3, 0.9, True, True, 1,
        Grammar(type=GrammarType.Regex, value="[a-z]+"),
    )  # fmt: skip
    assert answer.generated_text.startswith(PROMPT)
    assert answer.details.best_of_sequences is not None
    assert len(answer.details.best_of_sequences) == 1
    assert len(answer.details.prefill) == 3  # truncated
    assert client.generate(PROMPT, True, 2, seed=7).details.seed == 7


def test_the_stream_is_the_answer(client: tgi.Client) -> None:
    events = list(client.generate_stream(PROMPT, max_new_tokens=6, top_n_tokens=1))
    text = "".join(event.token.text for event in events if not event.token.special)
    assert text == events[-1].generated_text == client.generate(PROMPT, max_new_tokens=6).generated_text
    assert events[-1].details is not None
    assert events[-1].details.generated_tokens == len(events) == 6


def test_chat_and_its_stream(client: tgi.Client) -> None:
    whole = client.chat(MESSAGES, max_tokens=6, seed=1, temperature=0.5)
    parts = list(client.chat(MESSAGES, max_tokens=6, seed=1, temperature=0.5, stream=True))
    assert whole.choices[0].message.content == "".join(part.choices[0].delta.content or "" for part in parts)
    assert whole.usage["completion_tokens"] == 6
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    plain = [{"role": "user", "content": "Name a colour."}]
    assert client.chat(plain, max_tokens=6, seed=1, temperature=0.5).choices == whole.choices


def test_a_tool_is_called(client: tgi.Client) -> None:
    called = client.chat(
        MESSAGES, tools=[Tool(type="function", function=WEATHER)], tool_choice="weather", max_tokens=60
    )
    assert called.choices[0].message.tool_calls[0]["function"]["name"] == "weather"


def test_completion_and_its_stream(client: tgi.Client) -> None:
    whole = client.completion(PROMPT, max_tokens=6, temperature=0.0)
    parts = list(client.completion(PROMPT, max_tokens=6, temperature=0.0, stream=True))
    assert whole.choices[0].text == "".join(part.text for part in parts)
    assert parts[-1].finish_reason == "length"


async def test_the_async_client_gives_the_same(client: tgi.Client, async_client: tgi.AsyncClient) -> None:
    expected = client.generate(PROMPT, max_new_tokens=5, top_n_tokens=2)
    answer = await async_client.generate(PROMPT, max_new_tokens=5, top_n_tokens=2)
    assert answer == expected
    events = [event async for event in async_client.generate_stream(PROMPT, max_new_tokens=5)]
    assert events[-1].generated_text == answer.generated_text
    chat = await async_client.chat(MESSAGES, max_tokens=5, temperature=0.0)
    parts = [part async for part in await async_client.chat(MESSAGES, max_tokens=5, temperature=0.0, stream=True)]
    assert chat.choices[0].message.content == "".join(part.choices[0].delta.content or "" for part in parts)
    text = await async_client.completion(PROMPT, max_tokens=5, temperature=0.0)
    pieces = [part async for part in await async_client.completion(PROMPT, max_tokens=5, temperature=0.0, stream=True)]
    assert text.choices[0].text == "".join(part.text for part in pieces)


async def test_refusals_are_typed(client: tgi.Client, async_client: tgi.AsyncClient) -> None:
    with pytest.raises(tgi.ValidationError, match="strictly positive"):
        client.generate(PROMPT, max_new_tokens=0)
    with pytest.raises(tgi.ValidationError, match="at character"):
        await async_client.generate(PROMPT, grammar=Grammar(type=GrammarType.Regex, value="[a"))
    with pytest.raises(tgi.ValidationError):
        next(client.generate_stream(PROMPT, max_new_tokens=0))
    with pytest.raises(tgi.ValidationError):
        await anext(async_client.generate_stream(PROMPT, max_new_tokens=0))
    with pytest.raises(tgi.NotFoundError):
        tgi.Client(client.base_url + "/nothing").generate(PROMPT)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, b'{"error": "Model is overloaded", "error_type": "overloaded"}', tgi.OverloadedError),
        (424, b'{"error": "x", "error_type": "generation"}', tgi.GenerationError),
        (500, b'{"error": "x", "error_type": "incomplete_generation"}', tgi.IncompleteGenerationError),
        (424, b'{"error": "x"}', tgi.ShardNotReadyError), (504, b'{"error": "x"}', tgi.ShardTimeoutError),
        (400, b'{"error": "x"}', tgi.BadRequestError), (429, b'{"error": "x"}', RateLimitExceededError),
        (502, b"<html>", UnknownError), (500, b'["x"]', UnknownError),
        (200, b'data:{"error": "x", "error_type": "generation"}\n\n', tgi.GenerationError),
    ],
)  # fmt: skip
async def test_errors_are_named_by_their_type_or_status(status: int, body: bytes, expected: type[Exception]) -> None:
    with answers(status, body) as (url, _):
        with pytest.raises(expected) as refusal:
            list(tgi.Client(url).generate_stream(PROMPT))
        with pytest.raises(expected):
            [event async for event in tgi.AsyncClient(url).generate_stream(PROMPT)]
    assert str(refusal.value) in ("x", "Model is overloaded", "<html>", "['x']")


async def test_headers_and_cookies_are_sent() -> None:
    for kind in (tgi.Client, tgi.AsyncClient):
        with answers(500, b"{}") as (url, seen):
            stream = kind(url, headers={"Authorization": "Bearer k"}, cookies={"a": "1"}).generate_stream(PROMPT)
            with pytest.raises(UnknownError):
                next(stream) if isinstance(stream, Iterator) else await anext(stream)
            assert (seen["authorization"], seen["cookie"]) == ("Bearer k", "a=1")
            assert seen["content-type"] == "application/json"


def test_a_server_that_is_silent_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        tgi.Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05).generate(PROMPT)
