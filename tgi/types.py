"""What `tgi.Client` sends and receives, under the names of TGI's old Python client.

Values have attributes, and `dict()` and `json()` (also as `model_dump()` and `model_dump_json()`). Fields that a server
adds later are ignored; fields that it leaves out are None.
"""

from __future__ import annotations

import builtins
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from tgi.errors import ValidationError

T = TypeVar("T", bound="Value")
_POSITIVE = ("repetition_penalty", "temperature", "top_k", "truncate", "top_n_tokens", "best_of")
_SHARES = ("top_p", "typical_p")


class Value(msgspec.Struct, kw_only=True):
    """What all of them can do."""

    def dict(self) -> builtins.dict[str, Any]:
        """As plain data."""
        plain: builtins.dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def json(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()

    model_dump = dict
    model_dump_json = json


class GrammarType(StrEnum):
    """How to read a grammar's value."""

    Json = "json"
    Regex = "regex"


class FinishReason(StrEnum):
    """Why a generation ended."""

    Length = "length"
    EndOfSequenceToken = "eos_token"
    StopSequence = "stop_sequence"


class Grammar(Value):
    """What an output must match: a JSON schema, as text or as an object, or a regular expression."""

    type: GrammarType
    value: str | builtins.dict[str, Any]

    def __post_init__(self) -> None:
        if not self.value:
            raise ValidationError.told(f"`value` cannot be empty for `{GrammarType(self.type).value}` grammar")


class Chunk(Value):
    """A part of a message."""

    type: str
    text: str | None = None
    image_url: Any = None


class Message(Value):
    """One turn of a conversation."""

    role: str = "assistant"
    content: str | list[Chunk] | None = None
    name: str | None = None
    tool_calls: Any = None


class Tool(Value):
    """A function that the model may call."""

    type: str
    function: builtins.dict[str, Any]


class Function(Value):
    """A call in a stream, or a part of one."""

    name: str | None = None
    arguments: str = ""


class ChoiceDeltaToolCall(Value):
    """A call in a stream, or a part of one, with its place among the calls."""

    index: int = 0
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class ChoiceDelta(Value):
    """What a chunk adds to a message."""

    role: str = "assistant"
    content: str | None = None
    tool_calls: list[ChoiceDeltaToolCall] | ChoiceDeltaToolCall | None = None


class Choice(Value):
    """What a chunk adds to one of the answers."""

    index: int
    delta: ChoiceDelta
    logprobs: builtins.dict[str, Any] | None = None
    finish_reason: str | None = None


class CompletionComplete(Value):
    """One completed text; in a stream, a part of it."""

    index: int
    text: str
    logprobs: Any = None
    finish_reason: str | None = None


class ChatCompletionComplete(Value):
    """One answer of a conversation."""

    index: int
    message: Message
    logprobs: Any = None
    finish_reason: str | None = None
    usage: Any = None


class Envelope(Value):
    """What every answer of OpenAI's routes says of itself."""

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    usage: Any = None


class Completion(Envelope, kw_only=True):
    """The answer of `completion`."""

    choices: list[CompletionComplete]


class ChatComplete(Envelope, kw_only=True):
    """The answer of `chat`."""

    choices: list[ChatCompletionComplete]


class ChatCompletionChunk(Envelope, kw_only=True):
    """One event of a streamed `chat`."""

    choices: list[Choice]


class Parameters(Value):
    """Generation parameters. Raises: ValidationError where no server would accept one."""

    do_sample: bool = False
    max_new_tokens: int = 20
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    return_full_text: bool = False
    stop: list[str] = []
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    best_of: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValidationError.told(f"`{name}` must be strictly positive")
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValidationError.told(f"`{name}` must be > 0.0 and < 1.0")
        if self.seed is not None and self.seed < 0:
            raise ValidationError.told("`seed` must be positive")
        if self.best_of is not None and self.best_of > 1:
            if self.seed is not None:
                raise ValidationError.told("`seed` must not be set when `best_of` is > 1")
            choosing = (self.temperature, self.top_k, self.top_p, self.typical_p)
            if not self.do_sample and all(value is None for value in choosing):
                raise ValidationError.told("you must use sampling when `best_of` is > 1")


class Request(Value):
    """The body of a generation request."""

    inputs: str
    parameters: Parameters | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValidationError.told("`inputs` cannot be empty")
        if self.stream and self.parameters is not None and (self.parameters.best_of or 1) > 1:
            raise ValidationError.told("`best_of` != 1 is not supported when `stream` == True")


class InputToken(Value):
    """A token of the prompt; the first one has no log-probability."""

    id: int
    text: str
    logprob: float | None = None


class Token(Value):
    """A generated token."""

    id: int
    text: str
    logprob: float | None = None
    special: bool = False


class BestOfSequence(Value):
    """One of the sequences that `best_of` did not choose."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None
    prefill: list[InputToken] = []
    tokens: list[Token] = []
    top_tokens: list[list[Token]] | None = None


class Details(Value):
    """How a generation went."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None
    prefill: list[InputToken] = []
    tokens: list[Token] = []
    top_tokens: list[list[Token]] | None = None
    best_of_sequences: list[BestOfSequence] | None = None


class Response(Value):
    """The answer of `generate`."""

    generated_text: str
    details: Details


class StreamDetails(Value):
    """How a streamed generation went."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None


class StreamResponse(Value):
    """One event of `generate_stream`; the text and the details come with the last."""

    token: Token
    top_tokens: list[Token] | None = None
    generated_text: str | None = None
    details: StreamDetails | None = None


def read(kind: type[T], payload: Any) -> T:
    """An answer's JSON as a value of `kind`. Raises: msgspec.ValidationError when it is something else."""
    return msgspec.convert(payload, kind, strict=False)
