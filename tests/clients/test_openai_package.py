"""The `openai` package against a real `tgi serve`: it cannot tell it from OpenAI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.live import LiveServer

MODEL = "any-name"
QUESTION: list[Any] = [{"role": "user", "content": "Name three colours."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                       "required": ["city"], "additionalProperties": False},
    },
}  # fmt: skip


class Person(BaseModel):
    """What `.parse` is asked for."""

    age: int
    likes_tea: bool


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=live_server.url + "/v1", api_key="-", max_retries=0) as client:
        yield client


def greedy(client: OpenAI, **options: Any) -> Any:
    """A conversation without chance."""
    return client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, **({"max_completion_tokens": 8} | options)
    )


def test_a_chat_is_typed_and_counted(client: OpenAI) -> None:
    answer = greedy(client)
    choice = answer.choices[0]
    assert (answer.object, answer.model, choice.message.role, choice.finish_reason) == (
        "chat.completion", MODEL, "assistant", "length",
    )  # fmt: skip
    assert choice.message.content
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_is_the_same_text_and_ends_with_the_usage(client: OpenAI) -> None:
    whole = greedy(client)
    chunks = list(greedy(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_many_clients_talk_at_once(live_server: LiveServer) -> None:
    async with AsyncOpenAI(base_url=live_server.url + "/v1", api_key="-", max_retries=0) as client:

        async def streamed() -> str:
            stream = await client.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=8, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answer = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=8
        )
        texts = await asyncio.gather(*(streamed() for _ in range(4)))
    assert set(texts) == {answer.choices[0].message.content}


def test_log_probabilities_come_with_their_alternatives(client: OpenAI) -> None:
    answer = greedy(client, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    for token in content:
        assert len(token.top_logprobs) == 3
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (token.token, token.logprob)
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )


def test_choices_differ_and_a_seed_repeats_them(client: OpenAI) -> None:
    def sampled(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1.5, max_tokens=8, n=3, seed=seed
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = sampled(7)
    assert len(set(first)) > 1
    assert sampled(7) == first
    assert sampled(8) != first


def test_a_stop_sequence_ends_the_text_and_is_left_out(client: OpenAI) -> None:
    text = greedy(client).choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    for stopped in (greedy(client, stop=stop), greedy(client, stop=[stop, "never said"])):
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].message.content == text[: text.index(stop)]


def test_a_schema_is_parsed_into_its_model(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Ann is 34 and likes tea. Describe her as JSON."}],
        response_format=Person, temperature=0, max_tokens=60,
    )  # fmt: skip
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_a_tool_is_called_with_valid_arguments(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL, "messages": [{"role": "user", "content": "How is the weather in Paris?"}], "tools": [WEATHER],
        "tool_choice": "required", "temperature": 0, "max_tokens": 80,
    }  # fmt: skip
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", "get_weather")
    arguments = json.loads(call.function.arguments)
    assert list(arguments) == ["city"]
    with client.chat.completions.stream(**asked) as stream:
        assembled = stream.get_final_completion().choices[0]
    assert assembled.finish_reason == "tool_calls"
    assert json.loads(assembled.message.tool_calls[0].function.arguments) == arguments


def test_completions_score_their_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The sky is blue.", max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == "The sky is blue." + logprobs.tokens[-1]
    assert logprobs.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs.token_logprobs[1:])
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert answer.choices[0].text[offset : offset + len(token)] == token
    assert logprobs.top_logprobs[0] is None
    assert all(token in top for token, top in zip(logprobs.tokens[1:], logprobs.top_logprobs[1:], strict=True))


def test_completions_of_text_and_of_its_token_ids_are_the_same(client: OpenAI, live_server: LiveServer) -> None:
    ids = [token["id"] for token in live_server.post("/tokenize", {"inputs": "Once upon a time"})]
    texts = [
        client.completions.create(model=MODEL, prompt=prompt, max_tokens=6, temperature=0).choices[0].text
        for prompt in ("Once upon a time", ids, [ids])
    ]
    streamed = client.completions.create(model=MODEL, prompt=ids, max_tokens=6, temperature=0, stream=True)
    assert {*texts, "".join(chunk.choices[0].text for chunk in streamed)} == {texts[0]}


def test_the_model_is_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_a_bad_parameter_is_named(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        greedy(client, logprobs=True, top_logprobs=50)
    assert "Given: 50" in str(caught.value.body)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=-1, stream=True)
    assert caught.value.body == "Input validation error: `temperature` must be strictly positive"
