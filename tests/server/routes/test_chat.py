"""`/v1/chat/completions`, as OpenAI's and TGI's clients read it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.serving import answering, serve
from tgi.config import Limits
from tgi.errors import GenerationError

USER = [{"role": "user", "content": "hello"}]


def stable(body: bytes) -> bytes:
    """The body without what differs from call to call."""
    body = re.sub(rb'"id":"chatcmpl-[0-9a-f]{24}"', b'"id":"ID"', body)
    return re.sub(rb'"created":\d+', b'"created":0', body)


def chunk(rest: str) -> bytes:
    start = (
        '{"object":"chat.completion.chunk","id":"ID","created":0,"model":"tiny","system_fingerprint":"4.0.0-native",'
    )
    return f"data: {start}{rest}}}\n\n".encode()


def text_chunk(text: str, finish: str = "null", index: int = 0) -> bytes:
    delta = f'{{"role":"assistant","content":"{text}"}}'
    return chunk(
        f'"choices":[{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null'
    )


async def test_an_answer() -> None:
    async with serve(answering("Hé")) as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER})
    assert stable(answer.body) == (
        b'{"object":"chat.completion","id":"ID","created":0,"model":"tiny","system_fingerprint":"4.0.0-native",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"H\xc3\xa9"},"logprobs":null,'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":22,"completion_tokens":4,"total_tokens":26}}'
    )
    assert (answer.headers["x-prompt-tokens"], answer.headers["x-generated-tokens"]) == ("22", "4")


async def test_a_stream_is_one_chunk_a_token() -> None:
    async with serve(answering("Hé")) as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER, "stream": True})
    assert stable(answer.body) == b"".join(
        [text_chunk("H"), text_chunk(""), text_chunk("é"), text_chunk("", '"stop"'), b"data: [DONE]\n\n"]
    )
    assert answer.headers["content-type"] == "text/event-stream"


async def test_usage_is_a_last_chunk_of_its_own() -> None:
    async with serve(answering("a")) as server:
        request = {"messages": USER, "stream": True, "stream_options": {"include_usage": True}}
        answer = await server.post("/v1/chat/completions", request)
    usage = '"choices":[],"usage":{"prompt_tokens":22,"completion_tokens":2,"total_tokens":24}'
    assert stable(answer.body) == b"".join(
        [text_chunk("a"), text_chunk("", '"stop"'), chunk(usage), b"data: [DONE]\n\n"]
    )


async def test_log_probabilities() -> None:
    request = {"messages": USER, "logprobs": True, "top_logprobs": 2}
    async with serve(answering("a")) as server:
        answer = (await server.post("/v1/chat/completions", request)).json
        streamed = (await server.post("/v1/chat/completions", request | {"stream": True})).events
        silent = (await server.post("/v1/chat/completions", {"messages": USER, "top_logprobs": 2})).json
    content = answer["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -1}, {"token": "b", "logprob": -2}]
    }  # fmt: skip
    assert [one["token"] for one in content] == ["a", "</s>"]
    assert [event["choices"][0]["logprobs"]["content"] for event in streamed[:-1]] == [[one] for one in content]
    assert silent["choices"][0]["logprobs"] is None


async def test_several_choices_are_several_sequences() -> None:
    async with serve(lambda request: [97 + request.sampling.sequence_index] * 2) as server:
        request = {"messages": USER, "n": 3, "max_tokens": 2, "seed": 5}
        answer = (await server.post("/v1/chat/completions", request)).json
        streamed = (await server.post("/v1/chat/completions", request | {"stream": True})).events
        refused = await server.post("/v1/chat/completions", request | {"n": 17})
        assert {request.sampling.seed for request in server.supervisor.requests} == {5}
    assert [(one["index"], one["message"]["content"]) for one in answer["choices"]] == [(0, "aa"), (1, "bb"), (2, "cc")]
    assert answer["usage"] == {"prompt_tokens": 22, "completion_tokens": 6, "total_tokens": 28}
    texts = ["", "", ""]
    for event in streamed[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["delta"]["content"]
    assert (texts, refused.status) == (["aa", "bb", "cc"], 422)


@pytest.mark.parametrize(
    ("asked", "do_sample", "temperature", "top_p"),
    [({}, True, 1.0, 1.0), ({"temperature": 0}, False, 1.0, 1.0), ({"temperature": 0.5}, True, 0.5, 1.0),
     ({"top_p": 1}, True, 1.0, 1.0), ({"top_p": 0}, False, 1.0, 1.0),
     ({"temperature": 0, "top_p": 0.5}, False, 1.0, 1.0)],
)  # fmt: skip
async def test_temperature_zero_is_greedy_and_nothing_is_sampling(
    asked: dict[str, Any], do_sample: bool, temperature: float, top_p: float
) -> None:
    async with serve(answering("a")) as server:
        await server.post("/v1/chat/completions", {"messages": USER} | asked)
        sampling = server.supervisor.requests[0].sampling
    assert (sampling.do_sample, sampling.temperature, sampling.top_p) == (do_sample, temperature, top_p)


async def test_penalties_and_biases_reach_the_engine() -> None:
    request = {"messages": USER, "presence_penalty": -2, "frequency_penalty": 0.5, "logit_bias": {"7": 3}, "seed": 9}
    async with serve(answering("a")) as server:
        await server.post("/v1/chat/completions", request | {"max_tokens": 5, "max_completion_tokens": 7})
        engine = server.supervisor.requests[0]
    assert (engine.sampling.presence_penalty, engine.sampling.frequency_penalty) == (-2.0, 0.5)
    assert (engine.sampling.repetition_penalty, engine.sampling.logit_bias) == (1.0, {7: 3.0})
    assert (engine.max_new_tokens, engine.sampling.seed) == (7, 9)


async def test_a_stop_sequence_is_left_out_and_never_leaks() -> None:
    request = {"messages": USER, "stop": "END", "stream": True}
    async with serve(answering("aEbENDc")) as server:
        events = (await server.post("/v1/chat/completions", request)).events
        whole = (await server.post("/v1/chat/completions", request | {"stream": False})).json["choices"][0]
        kept = await server.post(
            "/v1/chat/completions", request | {"stream": False, "include_stop_str_in_output": True}
        )
    deltas = [event["choices"][0]["delta"]["content"] for event in events[:-1]]
    assert deltas == ["a", "", "Eb", "", "", ""]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("aEb", "stop")
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert kept.json["choices"][0]["message"]["content"] == "aEbEND"


@pytest.mark.parametrize(("asked", "answered"), [(None, "tiny"), ("tgi", "tiny"), ("dummy", "dummy")])
async def test_the_model_name_is_the_clients_own(asked: str | None, answered: str) -> None:
    async with serve(answering("a")) as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER, "model": asked})
    assert answer.json["model"] == answered


async def test_ids_are_unique_and_constant_in_a_stream() -> None:
    async with serve(answering("ab")) as server:
        streams = [await server.post("/v1/chat/completions", {"messages": USER, "stream": True}) for _ in range(2)]
    ids = [{event["id"] for event in stream.events[:-1]} for stream in streams]
    assert [len(one) for one in ids] == [1, 1]
    assert ids[0] != ids[1]


MESSAGES: list[tuple[list[dict[str, Any]], str]] = [
    (
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "[user]ab[assistant]",
    ),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "So "}], "[user]a[assistant]So"),
    (
        [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}],
        '[assistant][{"id":"1","function":{"name":"f","arguments":"{}"}}]',
    ),
    ([], "[assistant]"),
]


@pytest.mark.parametrize(("messages", "prompt"), MESSAGES)
async def test_messages_become_a_prompt(messages: list[dict[str, Any]], prompt: str) -> None:
    async with serve() as server:
        answer = (await server.post("/chat_tokenize", {"messages": messages})).json
    assert answer["templated_text"] == prompt
    assert "".join(token["text"] for token in answer["tokenize_response"]) == prompt


async def test_tool_calls_are_data_for_templates_that_read_them() -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.arguments.x }}{% endfor %}"
    template = "{% for m in messages %}{{ m.content }}" + calls + "{% endfor %}"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 5}'}}
    async with serve(template=template) as server:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [call]},
                    {"role": "tool", "content": "c", "tool_call_id": "1"}]  # fmt: skip
        answer = await server.post("/chat_tokenize", {"messages": messages})
    assert answer.json["templated_text"] == "ab5c"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "g"},
     "Tool error: Tool with name g not found", "tool_error"),
    ({"tools": [{"type": "function", "function": {"name": "f g"}}]},
     "Tool error: tools must have names of 1 to 64 letters, digits, `_` or `-`", "tool_error"),
    ({"add_generation_prompt": True, "continue_final_message": True},
     "Input validation error: `add_generation_prompt` and `continue_final_message` are mutually exclusive",
     "validation"),
    ({"response_format": {"type": "json_object"}, "tools": []}, "Tool error: Grammar and tools are mutually exclusive",
     "tool_error"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        "Input validation error: `content` parts other than `text` are not supported",
        "validation",
    ),
    ({"chat_template": "x"},
     "Input validation error: `chat_template` is not supported: the model's own template is used", "validation"),
    ({"messages": [{"role": "user", "content": ""}] * 2049},
     "Input validation error: `messages` supports up to 2048 messages. Given: 2049", "validation"),
    ({"top_logprobs": 6}, "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 6", "validation"),
    ({"presence_penalty": 2.5}, "Input validation error: `presence_penalty` must be >= -2.0 and <= 2.0", "validation"),
    ({"chat_template_kwargs": {"messages": []}},
     "Template error: `chat_template_kwargs` must not set `messages`", "template_error"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("changes", "message", "error_type"), REFUSED)
async def test_a_refusal_has_its_real_status_even_for_a_stream(
    changes: dict[str, Any], message: str, error_type: str, stream: bool
) -> None:
    async with serve() as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER, "stream": stream} | changes)
        kind = "template" if error_type == "template_error" else "validation"
        assert await server.metric(f'tgi_request_failure{{err="{kind}"}}') == 1
    assert (answer.status, answer.json) == (422, {"error": message, "error_type": error_type})


@pytest.mark.parametrize(
    "changes", [{"response_format": {"type": "text"}}, {"tools": []}, {"tools": [{}], "tool_choice": "none"}]
)
async def test_what_asks_for_nothing_special_is_served(changes: dict[str, Any]) -> None:
    async with serve(answering("a")) as server:
        assert (await server.post("/v1/chat/completions", {"messages": USER} | changes)).status == 200


async def test_a_model_without_a_template_refuses_conversations_only() -> None:
    async with serve(answering("a"), template=None) as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER})
        assert (await server.post("/generate", {"inputs": "x"})).status == 200
    assert (answer.status, answer.json["error"]) == (422, "Template error: template not found")


async def test_overload_is_429_before_the_stream() -> None:
    async with serve(limits=Limits(max_concurrent_requests=2)) as server, server.session:
        for changes in ({"n": 3}, {"n": 3, "stream": True}):
            answer = await server.post("/v1/chat/completions", {"messages": USER} | changes)
            assert (answer.status, answer.json["error_type"]) == (429, "overloaded")
            assert "retry-after" in answer.headers


@pytest.mark.parametrize("n", [1, 2])
async def test_a_failure_in_a_stream_is_an_event_and_then_the_end(n: int) -> None:
    async with serve(answering("a", GenerationError("lost"))) as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER, "stream": True, "n": n})
        assert server.services.inference.idle
    failure = b'data: {"error":{"message":"Request failed during generation: lost","http_status_code":424}}\n\n'
    assert answer.body.endswith(failure + b"data: [DONE]\n\n")
    assert answer.body.count(b'"error"') == 1
