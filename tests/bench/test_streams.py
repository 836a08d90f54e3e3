"""Streams of events, read byte by byte and all at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tgi.bench.streams import CHAT, COMPLETIONS, TGI, reader


def stream(*events: Any) -> bytes:
    return b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n" for event in events
    )


def token(text: str, **more: Any) -> dict[str, Any]:
    return {"token": {"id": 1, "text": text, "special": False}, "generated_text": None, "details": None, **more}


TGI_ANSWER = stream(
    token("a"), token("b"),
    token("c", generated_text="abc", details={"finish_reason": "length", "generated_tokens": 3, "input_length": 7}),
)  # fmt: skip
CHAT_ANSWER = stream(
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, {"choices": [{"delta": {"content": "a"}}]},
    {"choices": [{"delta": {"content": "b"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}, "[DONE]",
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_a_tgi_answer_is_the_same_however_it_is_cut(size: int) -> None:
    found = reader(TGI, keep_text=True)
    for place in range(0, len(TGI_ANSWER), size):
        found.feed(TGI_ANSWER[place : place + size], float(place))
    found.close()
    assert (found.error, found.output_tokens, found.prompt_tokens, found.text) == (None, 3, 7, "abc")
    assert len(found.token_times) == 3
    assert found.token_times == sorted(found.token_times)


def test_each_token_has_the_time_of_the_bytes_that_ended_its_line() -> None:
    first, second, third = (part + b"\n\n" for part in TGI_ANSWER.split(b"\n\n")[:3])
    found = reader(TGI)
    found.feed(first[:5], 1.0)
    found.feed(first[5:] + second, 2.0)
    found.feed(third, 3.5)
    assert found.token_times == [2.0, 2.0, 3.5]


def test_a_chat_answer_counts_chunks_with_text_only_and_believes_usage() -> None:
    found = reader(CHAT, keep_text=True)
    found.feed(CHAT_ANSWER, 1.0)
    found.close()
    assert (found.error, found.text, len(found.token_times)) == (None, "ab", 2)
    assert (found.prompt_tokens, found.output_tokens) == (7, 5)


def test_without_usage_chunks_are_counted() -> None:
    found = reader(COMPLETIONS)
    found.feed(stream({"choices": [{"text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "stop"}]}), 1.0)
    found.close()
    assert (found.error, found.output_tokens, found.prompt_tokens) == (None, 2, 0)


@pytest.mark.parametrize(
    ("protocol", "data", "kind"),
    [
        (TGI, stream(token("a")), "incomplete"),
        (TGI, b"", "incomplete"),
        (TGI, stream(token("a"), {"error": "no", "error_type": "generation"}), "stream_generation"),
        (TGI, b"data: {nonsense\n\n", "malformed"),
        (CHAT, stream({"choices": [{"delta": {"content": "a"}}]}, "[DONE]"), "incomplete"),
        (CHAT, stream({"error": {"message": "no"}}, "[DONE]"), "stream_error"),
        (COMPLETIONS, stream({"choices": "x"}), "malformed"),
    ],
)
def test_a_stream_that_ends_wrong_is_an_error_of_its_kind(protocol: str, data: bytes, kind: str) -> None:
    found = reader(protocol)
    found.feed(data, 1.0)
    found.close()
    assert found.error == kind
    assert found.message


def test_comments_and_carriage_returns_are_no_events() -> None:
    found = reader(TGI)
    found.feed(b": keep alive\r\n\r\n" + TGI_ANSWER.replace(b"\n", b"\r\n"), 1.0)
    found.close()
    assert (found.error, found.output_tokens) == (None, 3)
