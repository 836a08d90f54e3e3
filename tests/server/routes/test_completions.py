"""`/v1/completions`, as OpenAI's and TGI's clients read it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.serving import BOS, answering, byte_level, serve
from tgi.config import Limits


def stable(body: bytes) -> bytes:
    body = re.sub(rb'"id":"cmpl-[0-9a-f]{24}"', b'"id":"ID"', body)
    return re.sub(rb'"created":\d+', b'"created":0', body)


def chunk(text: str, finish: str = "null", usage: str = "", index: int = 0) -> bytes:
    return (
        f'data: {{"object":"text_completion","id":"ID","created":0,"choices":[{{"index":{index},"text":"{text}",'
        f'"logprobs":null,"finish_reason":{finish}}}],"model":"tiny","system_fingerprint":"4.0.0-native"{usage}}}\n\n'
    ).encode()


async def test_an_answer() -> None:
    async with serve(answering("Hé")) as server:
        answer = await server.post("/v1/completions", {"prompt": "hello", "model": "other"})
    assert stable(answer.body) == (
        b'{"object":"text_completion","id":"ID","created":0,"model":"tiny","system_fingerprint":"4.0.0-native",'
        b'"choices":[{"index":0,"text":"H\xc3\xa9","logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}'
    )


async def test_a_stream_ends_with_the_usage_of_its_prompt() -> None:
    async with serve(answering("ab")) as server:
        answer = await server.post("/v1/completions", {"prompt": "hello", "stream": True})
    usage = ',"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}'
    assert stable(answer.body) == b"".join([chunk("a"), chunk("b"), chunk("", '"stop"', usage), b"data: [DONE]\n\n"])


async def test_prompts_are_answered_in_their_order() -> None:
    async with serve() as server:
        request = {"prompt": ["ab", "xyz"], "max_tokens": 4, "n": 2}
        answer = await server.post("/v1/completions", request)
        events = (await server.post("/v1/completions", request | {"stream": True})).events
    expected = ["abab", "abab", "xyzx", "xyzx"]
    assert [(one["index"], one["text"]) for one in answer.json["choices"]] == list(enumerate(expected))
    assert answer.json["usage"] == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}
    assert (answer.headers["x-compute-characters"], answer.headers["x-generated-tokens"]) == ("5", "16")
    texts = [""] * 4
    for event in events[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert (texts, events[-1]) == (expected, "[DONE]")


async def test_the_prompt_is_echoed_when_asked() -> None:
    async with serve(answering("!")) as server:
        answer = await server.post("/v1/completions", {"prompt": "hé", "echo": True})
        events = (await server.post("/v1/completions", {"prompt": "hé", "echo": True, "stream": True})).events
    assert answer.json["choices"][0]["text"] == "hé!"
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["hé!", ""]


async def test_log_probabilities_come_in_columns() -> None:
    async with serve(answering("ab")) as server:
        answer = await server.post("/v1/completions", {"prompt": "x", "logprobs": 1})
        events = (await server.post("/v1/completions", {"prompt": "x", "logprobs": 1, "stream": True})).events
        bare = await server.post("/v1/completions", {"prompt": "x", "logprobs": True})
        refused = await server.post("/v1/completions", {"prompt": "x", "logprobs": 6})
    assert answer.json["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", "</s>"], "token_logprobs": [-0.5] * 3, "text_offset": [0, 1, 2],
        "top_logprobs": [{"a": -1.0}, {"b": -1.0}, {"</s>": -1.0}],
    }  # fmt: skip
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in events[:-1]] == [[0], [1], [2]]
    assert bare.json["choices"][0]["logprobs"]["top_logprobs"] is None
    assert refused.status == 422


async def test_prompts_get_special_tokens() -> None:
    async with serve(lambda request: b"a", tokenizer=byte_level(add_bos=True)) as server:
        await server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
        assert server.supervisor.requests[0].prompt_ids[:4] == BOS.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("changes", "message", "error_type"),
    [
        ({"suffix": "x"}, "Suffix is not supported and can be achieved by preprocessing the prompt.",
         "suffix not supported"),
        ({"prompt": ["x"] * 5}, "Number of prompts exceeds the maximum allowed batch size of 4", "batch size exceeded"),
        ({"n": 0}, "Input validation error: `n` must be > 0 and <= 16. Given: 0", "validation"),
        ({"echo": True, "logprobs": 1}, "Input validation error: `echo` together with `logprobs` is not supported",
         "validation"),
        ({"repetition_penalty": 0}, "Input validation error: `repetition_penalty` must be strictly positive",
         "validation"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_has_its_real_status(
    changes: dict[str, Any], message: str, error_type: str, stream: bool
) -> None:
    async with serve() as server:
        answer = await server.post("/v1/completions", {"prompt": "x", "stream": stream} | changes)
        assert await server.metric('tgi_request_failure{err="validation"}') == 1
    assert (answer.status, answer.json) == (422, {"error": message, "error_type": error_type})


async def test_every_prompt_takes_a_permit() -> None:
    async with serve(answering("a"), limits=Limits(max_concurrent_requests=3)) as server:
        assert (await server.post("/v1/completions", {"prompt": ["x"] * 4})).status == 429
        assert (await server.post("/v1/completions", {"prompt": ["x"] * 3})).status == 200


async def test_one_bad_prompt_fails_the_call_and_one_request_is_counted() -> None:
    async with serve(answering("a")) as server:
        assert (await server.post("/v1/completions", {"prompt": ["x", ""]})).status == 422
        assert not server.supervisor.requests
        await server.post("/v1/completions", {"prompt": ["x", "y"]})
        assert await server.metric("tgi_request_count") == 2
        assert await server.metric("tgi_request_success") == 2
