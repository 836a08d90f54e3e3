"""`/v1/completions`, as OpenAI's and TGI's clients read it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.server.serving import BOS, EOS, answering, byte_level, sentence_piece, serve
from tgi.config import Limits
from tgi.server.recovery import TokenStream


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
    assert answer.json["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", "</s>"], "token_logprobs": [-0.5] * 3, "text_offset": [0, 1, 2],
        "top_logprobs": [{"a": -1.0}, {"b": -1.0}, {"</s>": -1.0}],  # the fake's: real ones agree with the token's
    }  # fmt: skip
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in events[:-1]] == [[0], [1], [2]]
    assert bare.json["choices"][0]["logprobs"]["top_logprobs"] is None


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
        ({"logprobs": 6}, "Input validation error: `logprobs` must be >= 0 and <= 5. Given: 6", "validation"),
        ({"max_tokens": 0}, "Input validation error: `max_new_tokens` must be strictly positive", "validation"),
        ({"prompt": [1, 320]}, "Input validation error: `prompt` token ids must be >= 0 and < 320", "validation"),
        ({"prompt": [[1], [-1]]}, "Input validation error: `prompt` token ids must be >= 0 and < 320", "validation"),
        ({"prompt": [1, 2**70]}, "Input validation error: `prompt` token ids must be >= 0 and < 320", "validation"),
        ({"prompt": [[]]}, "Input validation error: `inputs` cannot be empty", "validation"),
        ({"prompt": [[1]] * 5}, "Number of prompts exceeds the maximum allowed batch size of 4", "batch size exceeded"),
        ({"n": 2, "best_of": 1}, "Input validation error: `best_of` must be >= `n` and <= 16. Given: 1", "validation"),
        ({"best_of": 17}, "Input validation error: `best_of` must be >= `n` and <= 16. Given: 17", "validation"),
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


async def test_a_prompt_may_be_token_ids() -> None:
    async with serve(tokenizer=byte_level(add_bos=True)) as server:
        one = await server.post("/v1/completions", {"prompt": [*b"ab"], "max_tokens": 3})
        two = await server.post("/v1/completions", {"prompt": [[*b"x"], [*b"yz", BOS]], "max_tokens": 2, "echo": True})
        assert server.supervisor.requests[0].prompt_ids == b"a\0\0\0b\0\0\0"  # nothing is put in front of ids
    assert [choice["text"] for choice in one.json["choices"]] == ["aba"]
    assert [choice["text"] for choice in two.json["choices"]] == ["xxx", "yz<s>yz"]
    assert two.json["usage"]["prompt_tokens"] == 4
    assert (one.headers["x-compute-characters"], two.headers["x-compute-characters"]) == ("2", "6")


@pytest.mark.parametrize("prompt", [[], [1, "x"], ["x", [1]], [[1], 2], [1.0], [True], [["x"]], None, {}])
async def test_a_prompt_of_another_shape_is_refused(prompt: Any) -> None:
    async with serve() as server:
        assert (await server.post("/v1/completions", {"prompt": prompt})).status == 422


ECHOED = {
    "tokens": ["<s>", "", "é", "x", "!", "</s>"],
    "token_logprobs": [None, -0.25, -0.25, -0.25, -0.5, -0.5],
    "top_logprobs": [None, {"\ufffd": -1.0, "": -0.25}, {"\ufffd": -1.0, "é": -0.25}, {"x": -1.0}, {"!": -1.0},
                     {"</s>": -1.0}],
    "text_offset": [0, 0, 0, 1, 2, 3],
}  # fmt: skip


async def test_an_echoed_prompt_has_its_log_probabilities() -> None:
    request = {"prompt": "éx", "echo": True, "logprobs": 1}
    async with serve(answering("!"), tokenizer=byte_level(add_bos=True)) as server:
        answer = await server.post("/v1/completions", request)
        events = (await server.post("/v1/completions", request | {"stream": True})).events
    choice = answer.json["choices"][0]
    assert (choice["text"], choice["logprobs"]) == ("éx!", ECHOED)
    columns: dict[str, list[Any]] = {name: [] for name in ECHOED}
    for event in events[:-1]:
        for name, column in event["choices"][0]["logprobs"].items():
            columns[name] += column
    assert columns == ECHOED
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "éx!"


async def test_a_prompt_is_scored_without_an_answer() -> None:
    request = {"prompt": [*b"ab"], "echo": True, "logprobs": 1, "max_tokens": 0}
    async with serve(answering("!")) as server:
        answer = await server.post("/v1/completions", request)
        events = (await server.post("/v1/completions", request | {"stream": True})).events
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [None, -0.25], "top_logprobs": [None, {"b": -1.0}],
                "text_offset": [0, 1]}  # fmt: skip
    expected = {"index": 0, "text": "ab", "logprobs": logprobs, "finish_reason": "length"}
    usage = {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}
    assert (answer.json["choices"], answer.json["usage"]) == ([expected], usage)
    assert ([event["choices"] for event in events[:-1]], events[0]["usage"]) == ([[expected]], usage)


@pytest.mark.parametrize("scorer_comes_last", [False, True])
async def test_one_choice_scores_the_prompt_for_all(monkeypatch: pytest.MonkeyPatch, scorer_comes_last: bool) -> None:
    request: dict[str, Any] = {"prompt": ["ab", "cde"], "echo": True, "logprobs": 1, "n": 2, "max_tokens": 2}
    async with serve() as server:
        if scorer_comes_last:
            others = asyncio.Event()
            answer = server.supervisor._answer

            async def in_turn(stream: TokenStream) -> None:
                if stream.request.prompt_logprobs:
                    await others.wait()
                await answer(stream)
                others.set()

            monkeypatch.setattr(server.supervisor, "_answer", in_turn)
        choices = (await server.post("/v1/completions", request)).json["choices"]
        if scorer_comes_last:
            others.clear()
        events = (await server.post("/v1/completions", request | {"stream": True})).events[:-1]
        scored = [one.prompt_logprobs for one in server.supervisor.requests]
    assert scored == [True, False, True, False] * 2
    assert choices[0]["logprobs"] == choices[1]["logprobs"]
    assert choices[2]["logprobs"] == choices[3]["logprobs"]
    for index, whole in enumerate(choices):
        parts = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in parts) == whole["text"]
        for column, values in whole["logprobs"].items():
            assert [value for part in parts for value in part["logprobs"][column]] == values
        assert parts[-1]["finish_reason"] == "length"
        assert len(parts) == 2


async def test_a_tokenizers_own_space_is_no_part_of_an_echo() -> None:
    async with serve(tokenizer=sentence_piece()) as server:
        request = {"prompt": "a is", "echo": True, "logprobs": 0, "max_tokens": 1}
        answer = await server.post("/v1/completions", request)
        logprobs = answer.json["choices"][0]["logprobs"]
    assert logprobs["tokens"][:-1] == ["a", " ", "i", "s"]
    assert logprobs["text_offset"][:-1] == [0, 1, 2, 3]


async def test_the_likeliest_candidates_are_the_answers() -> None:
    texts = iter([b"aaaa", b"b", b"cc", b"dd", b"e", b"fff"])
    async with serve(lambda request: [*next(texts), EOS]) as server:
        server.supervisor.logprob = lambda token_id: -0.5 if token_id in [*b"bcde"] else -9.0
        request = {"prompt": ["x", "y"], "n": 2, "best_of": 3}
        answer = await server.post("/v1/completions", request)
        refused = await server.post("/v1/completions", request | {"stream": True})
        indices = [one.sampling.sequence_index for one in server.supervisor.requests]
    assert [(one["index"], one["text"]) for one in answer.json["choices"]] == [(0, "cc"), (1, "b"), (2, "dd"), (3, "e")]
    assert (answer.json["usage"]["completion_tokens"], indices) == (19, [0, 1, 2] * 2)
    assert "`best_of` must be equal to `n` when streaming" in refused.json["error"]


async def test_a_stream_tells_the_usage_it_is_asked_for() -> None:
    async def usages(**options: bool) -> list[Any]:
        request = {"prompt": ["ab", "xyz"], "max_tokens": 2, "stream": True, "stream_options": options}
        events = (await server.post("/v1/completions", request)).events
        assert events.pop() == "[DONE]"
        return [(len(event["choices"]), event.get("usage", "absent")) for event in events]

    def usage(prompt: int, generated: int) -> dict[str, int]:
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    async with serve() as server:
        finals = await usages(include_usage=True)
        always = await usages(include_usage=True, continuous_usage_stats=True)
        silent = await usages(include_usage=False)
    assert finals == [(1, None)] * 4 + [(0, usage(5, 4))]
    assert always[-1] == (0, usage(5, 4))
    assert sorted(one[1]["completion_tokens"] for one in always[:-1]) == [1, 1, 2, 2]
    assert [one for one in silent if one[1] != "absent"] == [(1, usage(2, 2)), (1, usage(3, 2))]


async def test_openais_sampling_fields_reach_the_engine() -> None:
    request = {"prompt": "x", "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"7": 5}, "seed": 3,
               "stop": "ab", "max_tokens": 4}  # fmt: skip
    async with serve(answering("xaby")) as server:
        answer = await server.post("/v1/completions", request)
        sampling = server.supervisor.requests[0].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (0.5, -0.5, 3)
    assert (sampling.logit_bias, sampling.do_sample) == ({7: 5.0}, True)
    assert (answer.json["choices"][0]["text"], answer.json["choices"][0]["finish_reason"]) == ("x", "stop")
