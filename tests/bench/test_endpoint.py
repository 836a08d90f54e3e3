"""Servers are found out, and asked in their own words."""

from __future__ import annotations

import json

import pytest

from tests.bench.fake_server import FakeServer, serve
from tgi.bench.client import open_session
from tgi.bench.endpoint import Endpoint, NoServer, Sampling, connect, split_url
from tgi.errors import ConfigError


async def found(server: FakeServer, path: str = "", **more: object) -> Endpoint:
    async with serve(server) as url, open_session(10.0) as session:
        return await connect(session, url + path, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:3000", ("http://127.0.0.1:3000", None)),
        ("http://h:1/", ("http://h:1", None)),
        ("https://h/v1", ("https://h", None)),
        ("http://h:1/v1/chat/completions", ("http://h:1", "chat")),
        ("http://h:1/v1/completions", ("http://h:1", "completions")),
        ("http://h:1/generate_stream", ("http://h:1", "tgi")),
        ("http://h:1/prefix/v1/", ("http://h:1/prefix", None)),
    ],
)
def test_a_url_may_name_the_server_or_a_route(url: str, expected: tuple[str, str | None]) -> None:
    assert split_url(url) == expected


@pytest.mark.parametrize("url", ["", "http://", "ftp://h:1", "http://h:port", "http://h:99999"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL of a server"):
        split_url(url)


async def test_tgi_is_found_by_its_info_and_tells_of_its_model() -> None:
    endpoint = await found(FakeServer())
    assert (endpoint.protocol, endpoint.target.server) == ("tgi", "TGI 9.9.9")
    assert (endpoint.target.model.id, endpoint.target.model.revision) == ("fake/model", "abc")


async def test_the_hash_that_a_server_tells_is_the_models() -> None:
    assert (await found(FakeServer(model_hash="5a" * 32))).target.model.hash == "sha256:" + "5a" * 32
    assert (await found(FakeServer())).target.model.hash is None


async def test_an_openai_server_is_asked_for_completions_and_else_for_chat() -> None:
    assert (await found(FakeServer(tgi=False))).protocol == "completions"
    endpoint = await found(FakeServer(tgi=False, completions=False))
    assert (endpoint.protocol, endpoint.target.model.id) == ("chat", "fake/model")


async def test_a_protocol_that_is_named_wins() -> None:
    assert (await found(FakeServer(), protocol="chat")).protocol == "chat"
    assert (await found(FakeServer(), path="/v1/completions")).protocol == "completions"


async def test_a_server_that_refuses_ignore_eos_is_not_sent_it() -> None:
    assert not (await found(FakeServer(tgi=False, strict=True))).ignore_eos
    assert (await found(FakeServer(tgi=False))).ignore_eos


async def test_a_wrong_key_is_explained() -> None:
    with pytest.raises(NoServer, match="401") as refused:
        await found(FakeServer(key="secret"), api_key="wrong")
    assert "--api-key" in str(refused.value.hint)
    assert (await found(FakeServer(key="secret"), api_key="secret")).protocol == "tgi"


async def test_what_is_no_language_model_is_refused() -> None:
    with pytest.raises(NoServer, match="neither `/info` nor `/v1/models`"):
        await found(FakeServer(tgi=False, openai=False))


async def test_nobody_at_the_address_is_told_with_the_next_step() -> None:
    async with open_session(10.0) as session:
        with pytest.raises(NoServer, match=r"nobody answers at `http://127\.0\.0\.1:9`: connection refused") as absent:
            await connect(session, "http://127.0.0.1:9")
    assert "tgi serve" in str(absent.value.hint)


async def test_sampling_goes_out_in_the_words_of_the_protocol() -> None:
    sampling = Sampling(temperature=0.5, top_k=3, typical_p=0.9, watermark=True, top_n_tokens=2)
    body = json.loads((await found(FakeServer(), sampling=sampling)).body("hi", 9))
    assert body == {
        "inputs": "hi",
        "parameters": {"max_new_tokens": 9, "details": True, "temperature": 0.5, "top_k": 3, "typical_p": 0.9,
                       "watermark": True, "top_n_tokens": 2, "ignore_eos": True},
    }  # fmt: skip
    body = json.loads((await found(FakeServer(), protocol="completions")).body("hi", 9))
    assert body["temperature"] == 0.0
    assert (body["prompt"], body["max_tokens"], body["stream_options"]) == ("hi", 9, {"include_usage": True})


async def test_a_conversation_is_messages_in_chat_and_one_text_elsewhere() -> None:
    history = [("one", " two")]
    body = json.loads((await found(FakeServer(), protocol="chat")).body("three", 1, history=history))
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("user", "one"), ("assistant", " two"), ("user", "three")
    ]  # fmt: skip
    assert json.loads((await found(FakeServer())).body(" three", 1, history=history))["inputs"] == "one two three"
