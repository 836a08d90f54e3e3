"""Streams, byte for byte as they were when somebody last looked: one file in golden/ a route and kind of event.

After a change that is meant: `python -m tests.server.test_golden`, and read the difference. Comments in silent streams
are held in test_sse.py.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import answering, serve
from tgi.errors import GenerationError

GOLDEN = Path(__file__).with_name("golden")
NATIVE, CHAT, COMPLETIONS = "/generate_stream", "/v1/chat/completions", "/v1/completions"
TALK = {"messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": True}
PROMPT = {"prompt": "x", "temperature": 0, "stream": True}
BROKEN = GenerationError("the engine crashed on this request")

CASES: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "generate_stream": (NATIVE, {"inputs": "x", "parameters": {}}, ()),
    "generate_stream_details": (NATIVE, {"inputs": "x", "parameters": {"details": True}}, ()),
    "generate_stream_top_tokens": (NATIVE, {"inputs": "x", "parameters": {"top_n_tokens": 2}}, ()),
    "generate_stream_stop": (NATIVE, {"inputs": "x", "parameters": {"stop": ["é"], "details": True}}, ()),
    "generate_stream_refused": (NATIVE, {"inputs": ""}, ()),
    "generate_stream_failed": (NATIVE, {"inputs": "x", "parameters": {}}, (BROKEN,)),
    "compat_generate_stream": ("/", {"inputs": "x", "parameters": {}, "stream": True}, ()),
    "chat": (CHAT, TALK, ()),
    "chat_usage": (CHAT, TALK | {"stream_options": {"include_usage": True}}, ()),
    "chat_stop": (CHAT, TALK | {"stop": "é"}, ()),
    "chat_length": (CHAT, TALK | {"max_tokens": 1}, ()),
    "chat_logprobs": (CHAT, TALK | {"logprobs": True, "top_logprobs": 2}, ()),
    "chat_failed": (CHAT, TALK, (BROKEN,)),
    "completions": (COMPLETIONS, PROMPT, ()),
    "completions_logprobs": (COMPLETIONS, PROMPT | {"logprobs": 2}, ()),
    "completions_stop": (COMPLETIONS, PROMPT | {"stop": ["é"]}, ()),
    "completions_failed": (COMPLETIONS, PROMPT, (BROKEN,)),
}


async def transcript(name: str) -> bytes:
    """The bytes of one stream; what differs from answer to answer is written as `ID` and 0."""
    path, body, then = CASES[name]
    async with serve(answering("Hé", *then)) as server:
        answer = await server.post(path, body)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    named = re.sub(rb'"id":"(chatcmpl|cmpl)-\w+"', rb'"id":"\1-ID"', answer.body)
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
