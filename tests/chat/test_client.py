"""The HTTP side of the chat: addresses, models, streams cut anywhere, refusals and broken connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.chat.fake_chat_server import CUT, FakeChatServer
from tgi.chat import client
from tgi.chat.client import ChatServer, ConnectionLost, NoServer, Refused, events, server_url
from tgi.errors import ConfigError

BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


async def chunks(server: ChatServer) -> list[dict[str, Any]]:
    return [chunk async for chunk in server.stream(BODY)]


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("localhost:3000", "http://localhost:3000"),
        ("https://host/v1/", "https://host"),
        ("http://host:8080/prefix/v1/chat/completions", "http://host:8080/prefix"),
        (" http://[::1]:3000 ", "http://[::1]:3000"),
    ],
)
def test_an_address_may_be_written_in_many_ways(typed: str, url: str) -> None:
    assert server_url(typed) == url


@pytest.mark.parametrize("typed", ["", "ftp://host", "http://", "http://host:99999", "http://host:port", "two words"])
def test_what_is_no_address_is_named(typed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        server_url(typed)
    assert f"`--url {typed}`" in refused.value.message


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_are_found_however_the_bytes_are_cut(size: int) -> None:
    stream = b': comment\r\ndata: {"a": "\xc3\xa9"}\r\n\r\nevent: x\ndata:one\ndata: two\n\n\ndata: [DONE]\n\n'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    assert [data async for data in events(pieces())] == ['{"a": "é"}', "one\ntwo", "[DONE]"]


async def test_an_answer_comes_in_chunks_and_the_key_is_sent() -> None:
    with FakeChatServer(["one ", "two"]) as fake:
        found = await chunks(ChatServer(fake.url, "secret"))
        assert await ChatServer(fake.url, "secret").models() == ["fake-model"]
    assert [c["choices"][0]["delta"]["content"] for c in found if c["choices"]] == ["one ", "two", ""]
    assert found[-1]["usage"]["completion_tokens"] == 2
    assert fake.keys == ["Bearer secret"] * 2
    assert "secret" not in repr(ChatServer(fake.url, "secret"))


async def test_a_server_that_cannot_stream_answers_in_one_chunk() -> None:
    answer = {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    with FakeChatServer((200, answer)) as fake:
        (chunk,) = await chunks(ChatServer(fake.url))
    assert chunk["choices"][0]["delta"]["content"] == "whole"


async def test_a_connection_that_breaks_is_told_from_an_answer_that_ends() -> None:
    with FakeChatServer(["half", CUT]) as fake:
        stream = ChatServer(fake.url).stream(BODY)
        first = await anext(stream)
        with pytest.raises(ConnectionLost):
            await anext(stream)
    assert first["choices"][0]["delta"]["content"] == "half"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (422, {"error": "Input validation error: too long", "error_type": "validation"}, "too long"),
        (401, {"error": {"message": "wrong key"}}, "wrong key"),
        (400, {"message": "no such thing"}, "no such thing"),
        (500, ["?"], "500"),
    ],
)
async def test_a_refusal_is_told_in_the_words_of_the_server(status: int, body: Any, words: str) -> None:
    with FakeChatServer((status, body)) as fake, pytest.raises(Refused) as refused:
        await chunks(ChatServer(fake.url))
    assert words in refused.value.message
    assert str(status) in refused.value.message


async def test_where_nobody_listens_the_command_to_start_a_server_is_told() -> None:
    with FakeChatServer(["x"]) as fake:
        url = fake.url
    with pytest.raises(NoServer) as absent:
        await chunks(ChatServer(url))
    assert f"`tgi serve --port {url.rpartition(':')[2]}`" in (absent.value.hint or "")
    with pytest.raises(NoServer):
        await ChatServer(url).models()


async def test_adapters_of_a_model_are_no_models_to_choose_from() -> None:
    listed = {"data": [{"id": "base"}, {"id": "adapter", "parent": "base"}, {"no": "id"}, 7]}
    assert client._model_names(listed) == ["base"]
    assert client._model_names({"data": None}) == client._model_names([]) == []
