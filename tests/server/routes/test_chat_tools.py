"""Tools on `/v1/chat/completions`: what the model is told, and how its calls reach the client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.routes.test_chat import USER, chunk, stable
from tests.server.serving import EOS, TEMPLATE, answering, serve
from tgi.config import Limits

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
NATIVE = (
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}{# <tool_call> #}"
)
HERMES = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


async def test_a_call_is_an_answer_that_openai_clients_know() -> None:
    async with serve(answering("So: " + HERMES), template=NATIVE) as server:
        answer = (await server.post("/v1/chat/completions", {"messages": USER, "tools": [TOOL]})).json
        grammar = json.loads(server.supervisor.requests[0].sampling.grammar)["grammars"]
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "So: ")
    assert call["function"] == {"description": None, "name": "f", "arguments": '{"x":1}'}
    assert answer["usage"]["prompt_tokens"] == len("fhello")
    assert ("<tool_call>" in grammar[0]["lark_grammar"], grammar[1]["name"]) == (True, "tool_0")


async def test_every_chunk_of_a_forced_call_carries_some_of_it() -> None:
    request = {"messages": USER, "tools": [TOOL], "tool_choice": "required", "stream": True}
    async with serve(answering('{"name": "f", "parameters": {"x": 1}}')) as server:
        answer = await server.post("/v1/chat/completions", request)

    def part(function: str, finish: str = "null") -> bytes:
        call = f'{{"index":0,"id":"0","type":"function","function":{{{function}}}}}'
        delta = f'{{"role":"assistant","tool_calls":[{call}]}}'
        return chunk(f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null')

    assert stable(answer.body) == b"".join(
        [
            part('"name":"f","arguments":"{"'),
            *(part(f'"name":null,"arguments":"{text}"') for text in ['\\"', "x", '\\"', ":", " ", "1"]),
            part('"name":null,"arguments":"}"', '"tool_calls"'),
            b"data: [DONE]\n\n",
        ]
    )


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (TEMPLATE, '[user]hello\n---\n[{"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}, '),
        (NATIVE.replace("<tool_call>", ""), "fhello\n---\n\nIf one of the functions"),
        (NATIVE, "fhello"),
    ],
)
async def test_the_model_is_told_of_the_tools_by_its_template_or_in_words(template: str, shown: str) -> None:
    async with serve(template=template) as server:
        prompt = (await server.post("/chat_tokenize", {"messages": USER, "tools": [TOOL]})).json["templated_text"]
        plain = (await server.post("/chat_tokenize", {"messages": USER, "tools": [TOOL], "tool_choice": "none"})).json
    assert prompt.startswith(shown)
    assert (prompt == "fhello") == (template == NATIVE)
    assert plain["templated_text"] in ("hello", "[user]hello[assistant]")


async def test_a_model_without_tools_in_its_template_reads_calls_and_results_as_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        *USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
    ]
    async with serve() as server:
        prompt = (await server.post("/chat_tokenize", {"messages": messages})).json["templated_text"]
    assert prompt == "[user]hello[assistant]" + json.dumps([call], separators=(",", ":")) + "[tool]r[assistant]"


async def test_tools_need_grammars() -> None:
    async with serve(limits=Limits(disable_grammar_support=True)) as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER, "tools": [TOOL]})
        plain = await server.post("/v1/chat/completions", {"messages": USER, "tools": [], "max_tokens": 2})
    assert (answer.status, answer.json["error"]) == (422, "Input validation error: grammar is not supported")
    assert plain.status == 200


async def test_a_tool_with_bad_parameters_is_refused_before_the_stream() -> None:
    bad = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"pattern": "("}}}}}
    async with serve() as server:
        answer = await server.post("/v1/chat/completions", {"messages": USER, "tools": [bad], "stream": True})
    assert (answer.status, answer.json["error_type"]) == (422, "tool_error")
    assert answer.json["error"].startswith("Tool error: the parameters of `f`: grammar is not valid: ")


async def test_choices_call_each_for_itself() -> None:
    call = '{"name": "f", "parameters": {}}'
    async with serve(lambda asked: [*(call if asked.sampling.sequence_index else "no").encode(), EOS]) as server:
        request: dict[str, Any] = {"messages": USER, "tools": [TOOL], "n": 2}
        answer = (await server.post("/v1/chat/completions", request)).json
        events = (await server.post("/v1/chat/completions", request | {"stream": True})).events
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "tool_calls"]
    finishes = {
        event["choices"][0]["index"]: event["choices"][0]["finish_reason"]
        for event in events[:-1]
        if event["choices"][0]["finish_reason"]
    }
    assert finishes == {0: "stop", 1: "tool_calls"}


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "[assistant]So"),
        ({"continue_final_message": False}, "[assistant]So [assistant]"),
        ({"continue_final_message": False, "add_generation_prompt": False}, "[assistant]So "),
    ],
)
async def test_an_answer_is_continued_unless_the_client_says_otherwise(fields: dict[str, Any], prompt: str) -> None:
    async with serve() as server:
        request = {"messages": [{"role": "assistant", "content": "So "}]} | fields
        assert (await server.post("/chat_tokenize", request)).json["templated_text"] == prompt
