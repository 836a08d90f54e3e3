"""What this server does where TGI leaves room or is wrong: decisions D1 to D7 of spec/http-api.md section 19."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.server.serving import answering, serve
from tgi.config import Limits
from tgi.errors import GenerationError

NATIVE_STREAMS = [("/generate_stream", {"inputs": "x"}), ("/", {"inputs": "x", "stream": True})]
OPENAI_STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
    ("/v1/completions", {"prompt": "x", "stream": True}),
]
BROKEN = GenerationError("the engine crashed on this request")


def wrong(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The request with a parameter that is refused."""
    return body | ({"temperature": -1} if path.startswith("/v1") else {"parameters": {"temperature": -1.0}})


@pytest.mark.parametrize(("path", "body"), NATIVE_STREAMS)
async def test_d1_a_native_stream_tells_its_refusal_inside(path: str, body: dict[str, Any]) -> None:
    async with serve() as server:
        answer = await server.post(path, wrong(path, body))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        message = "Input validation error: `temperature` must be strictly positive"
        assert answer.events == [{"error": message, "error_type": "validation"}]
    async with serve(limits=Limits(max_concurrent_requests=1)) as server:
        with server.services.inference.admit():
            answer = await server.post(path, body)
        assert (answer.status, answer.events) == (200, [{"error": "Model is overloaded", "error_type": "overloaded"}])
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("path", "body"), OPENAI_STREAMS)
async def test_d1_an_openai_stream_that_does_not_begin_has_its_real_status(path: str, body: dict[str, Any]) -> None:
    async with serve() as server:
        answer = await server.post(path, wrong(path, body))
        assert (answer.status, answer.headers["content-type"]) == (422, "application/json")
        assert answer.json["error_type"] == "validation"
    async with serve(limits=Limits(max_concurrent_requests=1)) as server:
        with server.services.inference.admit():
            answer = await server.post(path, body)
        assert (answer.status, answer.json["error_type"]) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1000


@pytest.mark.parametrize(("path", "body"), [*NATIVE_STREAMS, *OPENAI_STREAMS])
async def test_d1_a_failure_after_the_first_byte_is_an_event(path: str, body: dict[str, Any]) -> None:
    message = "Request failed during generation: the engine crashed on this request"
    async with serve(answering("a", BROKEN)) as server:
        answer = await server.post(path, body)
    assert answer.status == 200
    if path.startswith("/v1"):
        assert answer.events[1:] == [{"error": {"message": message, "http_status_code": 424}}, "[DONE]"]
    else:
        assert answer.events[1:] == [{"error": message, "error_type": "generation"}]


async def test_d2_an_answer_that_calls_a_tool_finishes_with_tool_calls() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    path, body = OPENAI_STREAMS[0]
    async with serve(answering('{"name": "f", "parameters": {}}')) as server:
        forced = body | {"tools": [tool], "tool_choice": "required"}
        (choice,) = (await server.post(path, forced | {"stream": False})).json["choices"]
        events = (await server.post(path, forced)).events
    assert choice["finish_reason"] == events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_d3_a_chunk_of_a_completion_that_goes_on_has_null_as_its_finish_reason() -> None:
    path, body = OPENAI_STREAMS[1]
    async with serve(answering("ab")) as server:
        events = (await server.post(path, body)).events[:-1]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "stop"]


@pytest.mark.parametrize(("stop", "text"), [("b", "a"), ("bc", "a"), ("é", "abc")])
async def test_d4_openais_routes_leave_the_stop_out_also_of_a_stream(stop: str, text: str) -> None:
    async with serve(answering("abcé")) as server:
        for path, body in OPENAI_STREAMS:
            events = (await server.post(path, body | {"stop": [stop]})).events[:-1]
            choices = [event["choices"][0] for event in events]
            assert "".join(one["delta"]["content"] if "delta" in one else one["text"] for one in choices) == text
        for path, body in NATIVE_STREAMS:
            events = (
                await server.post(path, body | {"parameters": {"stop": [stop], "return_full_text": False}})
            ).events
            assert events[-1]["generated_text"] == text + stop


async def test_d5_scores_of_a_prompt_need_no_flag_of_the_server() -> None:
    asked = {"inputs": "abc", "parameters": {"decoder_input_details": True, "max_new_tokens": 1}}
    for flag in (False, True):
        async with serve(limits=Limits(enable_prefill_logprobs=flag)) as server:
            prefill = (await server.post("/generate", asked)).json["details"]["prefill"]
        assert [token["logprob"] for token in prefill] == [None, -0.25, -0.25]


async def test_d6_whitespace_of_templates_is_as_in_transformers() -> None:
    template = "  {% for m in messages %}\n    {% if true %}\n  <{{ m.content }}>\n  {% endif %}\n{% endfor %}\n\nend\n"
    messages = [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]
    async with serve(template=template) as server:
        shown = (await server.post("/chat_tokenize", {"messages": messages})).json["templated_text"]
    ((expected,), _) = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
    assert shown == expected
    assert shown != jinja2.Template(template).render(messages=messages)  # what TGI's engine made of it


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
@pytest.mark.parametrize(("path", "body"), [*NATIVE_STREAMS, *OPENAI_STREAMS])
async def test_d7_one_is_off_everywhere(path: str, body: dict[str, Any], name: str) -> None:
    async with serve(answering("a")) as server:
        asked = body | ({name: 1.0} if path.startswith("/v1") else {"parameters": {name: 1.0}})
        assert "error" not in (await server.post(path, asked)).events[0]
        assert getattr(server.supervisor.requests[0].sampling, name) == 1.0
