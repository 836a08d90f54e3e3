"""What clients receive: one Struct a shape, written as compact JSON with the keys in this order.

A key that may be absent is `UNSET` by default; one that is present and empty is None. NaN and infinities become null.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

_encoder = msgspec.json.Encoder()
_PART = 10_000  # items encoded at once: some milliseconds


def encode(answer: Any) -> bytes:
    """The answer as one line of JSON, in UTF-8."""
    return _encoder.encode(answer)


async def encode_array(items: Sequence[Any]) -> bytes:
    """An array of any length as JSON, letting other requests run in between: a body may hold two million tokens."""
    parts = []
    for start in range(0, len(items), _PART):
        parts.append(_encoder.encode(items[start : start + _PART])[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(parts) + b"]"


def error_body(message: str, error_type: str) -> bytes:
    """The JSON body of every refusal."""
    return _encoder.encode({"error": message, "error_type": error_type})


class Token(Struct, gc=False):
    """A generated token."""

    id: int
    text: str
    logprob: float | None
    special: bool


class PrefillToken(Struct, gc=False):
    """A token of the prompt; the first has no log-probability."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(Struct, kw_only=True):
    """A sequence of a `best_of` request that was not the best."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct, kw_only=True):
    """What `details: true` adds to a native answer."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[Token]] | UnsetType = UNSET


class GenerateResponse(Struct, kw_only=True):
    """The answer of `/generate`, and the element of the answer of `/`."""

    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(Struct, kw_only=True):
    """What `details: true` adds to the last event of a native stream."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamResponse(Struct, kw_only=True):
    """One event of a native stream: one token."""

    index: int
    token: Token
    top_tokens: list[Token] | UnsetType = UNSET
    generated_text: str | None = None
    details: StreamDetails | None = None


class SimpleToken(Struct, gc=False):
    """A token of `/tokenize`; `start` and `stop` are byte offsets into the UTF-8 input."""

    id: int
    text: str
    start: int
    stop: int


class Usage(Struct):
    """Tokens an OpenAI request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Struct, gc=False):
    """A likely token."""

    token: str
    logprob: float


class ChatLogprob(Struct):
    """A generated token with its likely alternatives."""

    token: str
    logprob: float
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """The `logprobs` of a chat choice."""

    content: list[ChatLogprob]


class CalledFunction(Struct):
    """What a call calls; the arguments are the text of a JSON object."""

    description: None
    name: str
    arguments: str


class ToolCall(Struct):
    """A call of a tool."""

    id: str
    type: str
    function: CalledFunction


class FunctionDelta(Struct):
    """More of what a call calls: its name once, then its arguments piece by piece."""

    name: str | None
    arguments: str


class ToolCallDelta(Struct, kw_only=True):
    """More of a call of a tool. For OpenAI's SDKs, only its first part has its id (see `dialect.py`)."""

    index: int
    id: str | UnsetType = UNSET
    type: str = "function"
    function: FunctionDelta


class AssistantMessage(Struct):
    """The `message` of a choice."""

    role: str
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class AssistantDelta(Struct):
    """The `delta` of a chunk: some text, or some of one call. For OpenAI's SDKs, only the first has a role."""

    role: str | UnsetType
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChoice(Struct):
    """One answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Struct):
    """The answer of `/v1/chat/completions`."""

    object: str
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunkChoice(Struct):
    """One token of one answer, or what several add to a call."""

    index: int
    delta: AssistantDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(Struct):
    """One event of a chat stream."""

    object: str
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None


class CompletionLogprobs(Struct):
    """The `logprobs` of a completion, in OpenAI's column form; offsets count characters of the text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None  # None for the first token of a prompt
    text_offset: list[int]


class CompletionChoice(Struct):
    """One continuation of one prompt, or one token of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(Struct):
    """The answer of `/v1/completions`."""

    object: str
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(Struct):
    """One event of a completions stream; `usage` comes with the last token of a sequence, or as the client asks."""

    object: str
    id: str
    created: int
    choices: list[CompletionChoice]
    model: str
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
