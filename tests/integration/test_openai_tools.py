"""OpenAI's own client calls tools of a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from tests.live import LiveServer

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": 7},
            "minItems": 1,
            "maxItems": 2,
        },
    },
    "required": ["city", "unit", "days"],
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
ASK: dict[str, Any] = {
    "model": "tgi", "messages": [{"role": "user", "content": "What is the weather in Paris?"}], "max_tokens": 120,
    "tools": [WEATHER, NOW], "parallel_tool_calls": False,
}  # fmt: skip


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live_server.url + "/v1", api_key="x", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_required_call_has_valid_arguments(client: openai.OpenAI, seed: int) -> None:
    (choice,) = client.chat.completions.create(**ASK, tool_choice="required", seed=seed).choices
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA if call.function.name == "get_weather" else {})


def test_a_named_function_is_called(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    (answer,) = client.chat.completions.create(**ASK, tool_choice=choice, temperature=0).choices
    assert answer.message.tool_calls is not None
    (call,) = answer.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


def test_the_client_assembles_a_streamed_call(client: openai.OpenAI) -> None:
    asked = ASK | {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls is not None
    assert whole.tool_calls is not None
    (call,), (known,) = final.choices[0].message.tool_calls, whole.tool_calls
    assert known.type == "function"
    assert final.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == json.loads(known.function.arguments)
    assert len(call.id) == 9
    assert final.usage is not None
    assert any(event.type == "tool_calls.function.arguments.delta" for event in events)
    assert [event.type for event in events].count("tool_calls.function.arguments.done") == 1


def test_every_chunk_of_a_call_has_its_part(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASK, tool_choice="required", stream=True, seed=4))
    parts = [chunk.choices[0].delta.tool_calls for chunk in chunks]
    assert all(part is not None and part[0].function is not None for part in parts)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]


def test_a_model_that_may_call_may_also_answer(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        (answer,) = client.chat.completions.create(
            **ASK | {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 30, "temperature": 0},
            tool_choice=choice,
        ).choices
        assert answer.message.content or answer.message.tool_calls
        assert choice == "auto" or answer.message.tool_calls is None


def test_results_are_answered_in_words(client: openai.OpenAI) -> None:
    call = {"id": "abcdef123", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages: Any = [
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdef123", "content": "12:00"},
    ]
    (answer,) = client.chat.completions.create(model="tgi", messages=messages, max_tokens=8).choices
    assert answer.message.content


def test_a_call_that_is_cut_is_an_answer_all_the_same(client: openai.OpenAI) -> None:
    (answer,) = client.chat.completions.create(**ASK | {"max_tokens": 20}, tool_choice="required", seed=1).choices
    assert answer.finish_reason in ("length", "tool_calls")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "Tool error: Tool with name x not found"),
        ({"response_format": {"type": "json_object"}}, "Tool error: Grammar and tools are mutually exclusive"),
    ],
)
def test_what_cannot_be_honoured_is_refused(client: openai.OpenAI, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(**ASK | fields)
    assert refused.value.response.json() == {"error": reason, "error_type": "tool_error"}
