"""`huggingface_hub` against a real `tgi serve`: every option of `text_generation`, and chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, errors
from huggingface_hub.errors import HfHubHTTPError, OverloadedError, ValidationError

from tests.live import LiveServer
from tests.server.serving import answering, serve
from tgi.config import Limits
from tgi.errors import GenerationError, IncompleteGeneration

PROMPT = "The capital of France is"
QUESTION = [{"role": "user", "content": "Name three colours."}]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "maximum": 99}}, "required": ["age"],
          "additionalProperties": False}  # fmt: skip


@pytest.fixture
def client(live_server: LiveServer) -> InferenceClient:
    return InferenceClient(live_server.url)


def test_text_is_generated(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=6, return_full_text=False)
    assert text
    assert client.text_generation(PROMPT, max_new_tokens=6, return_full_text=True) == PROMPT + text


def test_details_tell_tokens_prompt_and_reason(client: InferenceClient) -> None:
    answer: Any = client.text_generation(
        PROMPT, max_new_tokens=6, details=True, decoder_input_details=True, top_n_tokens=2, return_full_text=False
    )
    details = answer.details
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", 6, None)
    assert "".join(token.text for token in details.tokens) == answer.generated_text
    assert "".join(token.text for token in details.prefill) == PROMPT
    assert (details.prefill[0].logprob, details.prefill[1].logprob < 0) == (None, True)
    assert [top[0]["id"] for top in details.top_tokens] == [token.id for token in details.tokens]
    assert {len(top) for top in details.top_tokens} == {2}


@pytest.mark.parametrize("details", [False, True])
def test_a_stream_is_the_same_text(client: InferenceClient, details: bool) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=6, return_full_text=False)
    stream = list(
        client.text_generation(PROMPT, max_new_tokens=6, stream=True, details=details, return_full_text=False)
    )
    if details:
        assert "".join(event.token.text for event in stream) == text == stream[-1].generated_text
        assert (stream[-1].details.finish_reason, stream[-1].details.generated_tokens) == ("length", 6)
    else:
        assert "".join(stream) == text


def test_the_best_of_several_is_chosen(client: InferenceClient) -> None:
    answer: Any = client.text_generation(
        PROMPT, max_new_tokens=4, best_of=2, do_sample=True, temperature=1.5, details=True, return_full_text=False
    )
    (other,) = answer.details.best_of_sequences
    mean, other_mean = (sum(t.logprob for t in one.tokens) / len(one.tokens) for one in (answer.details, other))
    assert mean >= other_mean


def test_a_seed_repeats_a_sample(client: InferenceClient) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": 8, "do_sample": True, "temperature": 1.3, "top_k": 50, "top_p": 0.95, "typical_p": 0.95,
        "repetition_penalty": 1.1, "frequency_penalty": 0.1, "seed": 5, "details": True, "return_full_text": False,
    }  # fmt: skip
    first, again = client.text_generation(PROMPT, **options), client.text_generation(PROMPT, **options)
    assert first.generated_text == again.generated_text
    assert first.details.seed == 5


def test_a_stop_sequence_is_kept_and_named(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=8, return_full_text=False)
    answer: Any = client.text_generation(
        PROMPT, max_new_tokens=8, stop=[text[-3:]], details=True, return_full_text=False
    )
    assert answer.details.finish_reason in ("stop_sequence", "length")  # the last allowed token tells the length
    assert answer.generated_text == text


def test_a_prompt_is_truncated_from_its_left(client: InferenceClient) -> None:
    answer: Any = client.text_generation(
        PROMPT, max_new_tokens=2, truncate=2, details=True, decoder_input_details=True, return_full_text=False
    )
    assert "".join(token.text for token in answer.details.prefill) == " France is"


def test_a_watermarked_text_is_another(client: InferenceClient) -> None:
    plain, marked = (
        client.text_generation(PROMPT, max_new_tokens=12, watermark=watermark, return_full_text=False)
        for watermark in (False, True)
    )
    assert marked
    assert marked != plain


def test_a_grammar_is_followed(client: InferenceClient) -> None:
    text = client.text_generation(
        "Ann is 34. As JSON: ", max_new_tokens=40, grammar={"type": "json", "value": SCHEMA}, return_full_text=False
    )
    assert isinstance(json.loads(text)["age"], int)
    digits = client.text_generation(
        PROMPT, max_new_tokens=8, grammar={"type": "regex", "value": "[0-9]{3}"}, return_full_text=False
    )
    assert (len(digits), digits.isdigit()) == (3, True)


def test_an_unknown_adapter_is_refused(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="adapter_id"):
        client.text_generation(PROMPT, adapter_id="nobody/nothing", max_new_tokens=1)


def test_a_bad_option_is_a_validation_error(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        client.text_generation(PROMPT, temperature=-1.0)
    with pytest.raises(ValidationError, match="`best_of` != 1"):
        list(client.text_generation(PROMPT, best_of=2, do_sample=True, stream=True))


def test_a_conversation_is_answered_and_streamed(client: InferenceClient) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0.0}
    answer = client.chat_completion(QUESTION, **options)
    text = answer.choices[0].message.content
    assert (bool(text), answer.usage.completion_tokens, answer.choices[0].finish_reason) == (True, 8, "length")
    chunks = list(client.chat_completion(QUESTION, stream=True, stream_options={"include_usage": True}, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == 8


def test_a_conversation_follows_a_schema(client: InferenceClient) -> None:
    asked: Any = {"type": "json_schema", "json_schema": {"name": "age", "schema": SCHEMA}}
    answer = client.chat_completion(QUESTION, response_format=asked, max_tokens=60, temperature=0.0)
    assert list(json.loads(answer.choices[0].message.content or "")) == ["age"]


async def test_the_async_client_generates_streams_and_chats(live_server: LiveServer) -> None:
    async with AsyncInferenceClient(live_server.url) as client:
        text = await client.text_generation(PROMPT, max_new_tokens=6, return_full_text=False)
        stream = await client.text_generation(PROMPT, max_new_tokens=6, stream=True)
        assert "".join([piece async for piece in stream]) == text
        answer = await client.chat_completion(QUESTION, max_tokens=4, temperature=0.0)
        chunks = await client.chat_completion(QUESTION, max_tokens=4, temperature=0.0, stream=True)
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert streamed == answer.choices[0].message.content


def test_the_endpoint_describes_itself(live_server: LiveServer) -> None:
    client = InferenceClient(live_server.url, provider="hf-inference")
    assert client.health_check() is True
    info = client.get_endpoint_info()
    assert (info["model_id"], info["router"]) == (live_server.get("/info")["model_id"], "text-generation-router")


def test_a_tool_is_called(client: InferenceClient) -> None:
    place = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "weather", "description": "Tells.", "parameters": place}}
    answer = client.chat_completion(QUESTION, tools=[tool], tool_choice="required", max_tokens=60, temperature=0.0)
    (call,) = answer.choices[0].message.tool_calls or []
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "weather")
    arguments: Any = call.function.arguments
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"city": "Paris"}


async def test_the_async_client_has_every_option(live_server: LiveServer) -> None:
    async with AsyncInferenceClient(live_server.url) as client:
        answer: Any = await client.text_generation(
            PROMPT, details=True, decoder_input_details=True, best_of=2, do_sample=True, temperature=0.9, top_k=30,
            top_p=0.9, typical_p=0.9, repetition_penalty=1.1, frequency_penalty=0.1, top_n_tokens=2, truncate=3,
            watermark=True, stop=["NEVER"], max_new_tokens=3, return_full_text=False,
            grammar={"type": "regex", "value": "[a-z ]+"},
        )  # fmt: skip
        assert (answer.details.generated_tokens, len(answer.details.prefill)) == (3, 3)
        assert len(answer.details.best_of_sequences) == 1
        scored: Any = await client.chat_completion(QUESTION, logprobs=True, top_logprobs=2, max_tokens=2, seed=1)
        assert [len(token.top_logprobs) for token in scored.choices[0].logprobs.content] == [2, 2]


@pytest.mark.parametrize(
    ("error", "expected", "streamed"),
    [
        (GenerationError("out of memory"), errors.GenerationError, errors.GenerationError),
        # In a stream TGI calls it by a name that the package does not know.
        (IncompleteGeneration(), errors.IncompleteGenerationError, errors.UnknownError),
    ],
)
async def test_failures_are_typed(error: Exception, expected: type[Exception], streamed: type[Exception]) -> None:
    async with serve(lambda request: [error]) as server, AsyncInferenceClient(server.url) as client:
        with pytest.raises(expected):
            await client.text_generation("x")
    async with serve(lambda request: [97, error]) as server, AsyncInferenceClient(server.url) as client:
        stream = await client.text_generation("x", stream=True)
        with pytest.raises(streamed):
            [piece async for piece in stream]


async def test_a_full_server_is_an_overloaded_error() -> None:
    async with serve(answering("a"), limits=Limits(max_concurrent_requests=1)) as server:
        server.supervisor.hold()
        async with (
            AsyncInferenceClient(server.url) as client,
            server.session.post(server.url + "/generate_stream", json={"inputs": "x"}),
        ):
            with pytest.raises(OverloadedError, match="Model is overloaded"):
                await client.text_generation("x")
            with pytest.raises(HfHubHTTPError, match="429"):
                await client.chat_completion(QUESTION)
            server.supervisor.release()
