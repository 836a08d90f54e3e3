"""Streams, byte for byte as they were when somebody last looked: one file in golden/ a route and kind of event.

After a change that is meant: `python -m tests.server.test_golden`, and read the difference. Comments in silent streams
are held in test_sse.py.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.server.serving import EOS, MARK, answering, serve
from tgi.errors import GenerationError, IncompleteGeneration

GOLDEN = Path(__file__).with_name("golden")
NATIVE, CHAT, COMPLETIONS = "/generate_stream", "/v1/chat/completions", "/v1/completions"
TALK = {"messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": True}
PROMPT = {"prompt": "x", "temperature": 0, "stream": True}
BROKEN = GenerationError("the engine crashed on this request")

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {}}}}}
    for name in ("f", "g")
]
CALL, CALLS = (
    '{"name": "f", "parameters": {"x": 1}}',
    '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
)
CALLING = TALK | {"tools": TOOLS, "tool_choice": "required"}
USAGE, ALWAYS = {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}
SDK = {"X-Stainless-Lang": "python"}
FULL = {"return_full_text": True, "details": True, "top_n_tokens": 1, "stop": ["é"], "seed": 7, "temperature": 0.5}


class Case(NamedTuple):
    """A request, and what the engine answers: a text, and what comes behind it (the end of it, if nothing else)."""

    path: str
    body: dict[str, Any]
    then: tuple[Any, ...] = ()
    text: str = "Hé"
    headers: dict[str, str] = {}  # noqa: RUF012  (never changed)


CASES = {
    "generate_stream": Case(NATIVE, {"inputs": "x", "parameters": {}}),
    "generate_stream_details": Case(NATIVE, {"inputs": "x", "parameters": {"details": True}}),
    "generate_stream_top_tokens": Case(NATIVE, {"inputs": "x", "parameters": {"top_n_tokens": 2}}),
    "generate_stream_stop": Case(NATIVE, {"inputs": "x", "parameters": {"stop": ["é"], "details": True}}),
    "generate_stream_length": Case(NATIVE, {"inputs": "x", "parameters": {"max_new_tokens": 2, "details": True}}),
    "generate_stream_everything": Case(NATIVE, {"inputs": "x", "parameters": FULL}),
    "generate_stream_mark": Case(NATIVE, {"inputs": "x", "parameters": {}}, (MARK, EOS)),
    "generate_stream_refused": Case(NATIVE, {"inputs": ""}),
    "generate_stream_best_of": Case(NATIVE, {"inputs": "x", "parameters": {"best_of": 2, "do_sample": True}}),
    "generate_stream_failed": Case(NATIVE, {"inputs": "x", "parameters": {}}, (BROKEN,)),
    "generate_stream_incomplete": Case(NATIVE, {"inputs": "x", "parameters": {}}, (IncompleteGeneration(),)),
    "compat_generate_stream": Case("/", {"inputs": "x", "parameters": {}, "stream": True}),
    "compat_generate_stream_stop": Case("/", {"inputs": "x", "parameters": {"stop": ["é"]}, "stream": True}),
    "compat_generate_stream_failed": Case("/", {"inputs": "x", "parameters": {}, "stream": True}, (BROKEN,)),
    "chat": Case(CHAT, TALK),
    "chat_openai": Case(CHAT, TALK, headers=SDK),
    "chat_usage": Case(CHAT, TALK | {"stream_options": USAGE}),
    "chat_continuous_usage": Case(CHAT, TALK | {"n": 2, "max_tokens": 2, "stream_options": ALWAYS}),
    "chat_stop": Case(CHAT, TALK | {"stop": "é"}),
    "chat_stop_kept": Case(CHAT, TALK | {"stop": "é", "include_stop_str_in_output": True}),
    "chat_length": Case(CHAT, TALK | {"max_tokens": 1}),
    "chat_logprobs": Case(CHAT, TALK | {"logprobs": True, "top_logprobs": 2}),
    "chat_choices": Case(CHAT, TALK | {"n": 2, "stream_options": USAGE}),
    "chat_choices_openai": Case(CHAT, TALK | {"n": 2}, headers=SDK),
    "chat_failed": Case(CHAT, TALK, (BROKEN,)),
    "chat_incomplete": Case(CHAT, TALK, (IncompleteGeneration(),)),
    "chat_tool": Case(CHAT, CALLING | {"stream_options": USAGE}, text=CALL),
    "chat_tool_openai": Case(CHAT, CALLING, text=CALL, headers=SDK),
    "chat_tool_length": Case(CHAT, CALLING | {"max_tokens": 32}, text=CALL),
    "chat_tool_logprobs": Case(CHAT, CALLING | {"logprobs": True}, text='{"name": "f", "parameters": {}}'),
    "chat_tool_failed": Case(CHAT, CALLING, (BROKEN,), text=CALL[:-2]),
    "chat_tools": Case(CHAT, CALLING, text=CALLS),
    "chat_tools_choices": Case(CHAT, CALLING | {"n": 2}, text='{"name": "f", "parameters": {}}'),
    "chat_tools_unused": Case(CHAT, TALK | {"tools": TOOLS}),
    "completions": Case(COMPLETIONS, PROMPT),
    "completions_prompts": Case(COMPLETIONS, PROMPT | {"prompt": ["x", "yz"], "max_tokens": 2}),
    "completions_choices": Case(COMPLETIONS, PROMPT | {"prompt": ["x", "yz"], "n": 2, "max_tokens": 1}),
    "completions_usage": Case(COMPLETIONS, PROMPT | {"prompt": ["x", "yz"], "max_tokens": 1, "stream_options": USAGE}),
    "completions_continuous_usage": Case(COMPLETIONS, PROMPT | {"stream_options": ALWAYS}),
    "completions_echo": Case(COMPLETIONS, PROMPT | {"prompt": "xy", "echo": True, "logprobs": 1, "max_tokens": 1}),
    "completions_logprobs": Case(COMPLETIONS, PROMPT | {"logprobs": 2}),
    "completions_stop": Case(COMPLETIONS, PROMPT | {"stop": ["é"]}),
    "completions_failed": Case(COMPLETIONS, PROMPT, (BROKEN,)),
    "completions_prompts_failed": Case(COMPLETIONS, PROMPT | {"prompt": ["x", "yz"]}, (BROKEN,)),
    "invocations_inputs": Case("/invocations", {"inputs": "x", "parameters": {}, "stream": True}),
    "invocations_messages": Case("/invocations", TALK | {"max_tokens": 1}),
    "invocations_prompt": Case("/invocations", PROMPT | {"max_tokens": 1}),
}


async def transcript(name: str) -> bytes:
    """The bytes of one stream; what differs from answer to answer is written as `ID` and 0."""
    case = CASES[name]
    async with serve(answering(case.text, *case.then)) as server:
        answer = await server.post(case.path, case.body, **case.headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    named = re.sub(rb'"id":"(chatcmpl|cmpl)-\w+"', rb'"id":"\1-ID"', answer.body)
    named = re.sub(rb'"id":"\w{9}"', b'"id":"DRAWN"', named)
    return re.sub(rb'"created":\d+', b'"created":0', named)


@pytest.mark.parametrize("name", CASES)
async def test_a_stream_is_what_it_was(name: str) -> None:
    assert await transcript(name) == (GOLDEN / f"{name}.txt").read_bytes()


def test_no_transcript_is_forgotten() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        (GOLDEN / f"{name}.txt").write_bytes(asyncio.run(transcript(name)))
