"""OpenAI's `chat.completions.stream()` assembles the message that an answer without streaming is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.live import LiveServer

TOOLS: list[Any] = [
    {"type": "function", "function": {
        "name": name, "description": f"The {name} of a city.", "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}},
                       "required": ["city"], "additionalProperties": False},
    }}
    for name in ("weather", "population")
]  # fmt: skip


class Person(BaseModel):
    """What an answer is parsed into."""

    age: int
    likes_tea: bool


# The helper takes no answer that is cut, so these end by themselves.
WORDS = {"guided_regex": "[A-Z][a-z]{2,9}( [a-zé]{2,9}){2,4}\\."}
CASES: dict[str, dict[str, Any]] = {
    "text": {"extra_body": WORDS},
    "several texts": {"extra_body": WORDS, "n": 3, "temperature": 1.2, "seed": 5},
    "log-probabilities": {"extra_body": WORDS, "logprobs": True, "top_logprobs": 2},
    "a tool": {"tools": TOOLS, "tool_choice": "required", "max_tokens": 100, "parallel_tool_calls": False},
    "tools": {"tools": TOOLS, "tool_choice": "required", "max_tokens": 160},
    "tools of several choices": {
        "tools": TOOLS, "tool_choice": "required", "max_tokens": 100, "n": 2, "temperature": 1.0, "seed": 3,
    },
    "tools that may be called": {"tools": TOOLS, "tool_choice": "auto", "stop": [" "]},
    "a schema": {"response_format": Person, "max_tokens": 60},
}  # fmt: skip
ASK: dict[str, Any] = {
    "model": "tgi", "messages": [{"role": "user", "content": "Ann of Paris is 34, likes tea."}], "temperature": 0,
}  # fmt: skip


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=live_server.url + "/v1", api_key="-", max_retries=0) as made:
        yield made


def shown(answer: Any) -> list[Any]:
    """All that a client reads of an answer, but the ids of calls, which no two answers share."""
    for choice in answer.choices:
        assert all(len(call.id) == 9 for call in choice.message.tool_calls or [])
    return [
        (
            choice.index, choice.finish_reason, choice.message.role, choice.message.content, choice.message.parsed,
            [(call.type, call.function.name, json.loads(call.function.arguments))
             for call in choice.message.tool_calls or []],
            [(token.token, token.logprob, [(top.token, top.logprob) for top in token.top_logprobs])
             for token in (choice.logprobs.content if choice.logprobs else [])],
        )
        for choice in answer.choices
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_final_message_is_the_one_without_streaming(client: OpenAI, case: str) -> None:
    asked = ASK | CASES[case]
    whole = client.chat.completions.parse(**asked)
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert shown(final) == shown(whole)
    assert {choice.message.role for choice in final.choices} == {"assistant"}
    assert bool(final.choices[0].message.tool_calls) == (asked.get("tool_choice") == "required")
    assert final.usage == whole.usage
    assert (final.choices[0].message.parsed is not None) == (case == "a schema")


async def test_the_asynchronous_helper_does_the_same(live_server: LiveServer) -> None:
    async with AsyncOpenAI(base_url=live_server.url + "/v1", api_key="-", max_retries=0) as client:
        asked = ASK | CASES["text"]
        whole = await client.chat.completions.create(**asked)
        async with client.chat.completions.stream(**asked) as stream:
            deltas = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].message.content == whole.choices[0].message.content == "".join(deltas)
