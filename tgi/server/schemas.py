"""What clients may send: one Struct an endpoint, decoded strictly.

Unknown keys are ignored; an integer is never made of a float, a boolean or a string; `null` means "absent" wherever a
field may be absent (spec/http-api.md section 2). Types and ranges of the JSON are checked here, meaning is checked in
`tgi.server.validation`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from tgi.errors import RequestError

MAX_NESTING = 128  # levels of arrays and objects in one body
MAX_MESSAGES = 2048  # messages in one conversation
_NOT_JSON = "Failed to parse the request body as JSON: "
_WRONG_SHAPE = "Failed to deserialize the JSON body into the target type: "

Uint32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=0)]  # 64 bits: more than a `Meta` can bound, see `_check_seed`

Body = TypeVar("Body")


class Rejected(RequestError):
    """A body that never became a request: not read, not JSON, or of the wrong shape. Not counted as a request."""

    error_type = "validation"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Grammar(Struct, kw_only=True):
    """What the output must match, in TGI's words (spec/http-api.md section 8), and with two types of ours."""

    type: Literal["json", "json_object", "regex", "json_schema", "choice", "lark"]
    value: Any

    def __post_init__(self) -> None:
        if self.type in ("regex", "lark") and not isinstance(self.value, str):
            raise ValueError(f"`value` of type `{self.type}` must be a string")
        if self.type == "json_schema" and (not isinstance(self.value, dict) or self.value.get("schema") is None):
            raise ValueError("missing field `schema`")
        if self.type == "choice" and not (
            isinstance(self.value, list) and all(isinstance(choice, str) for choice in self.value)
        ):
            raise ValueError("`value` of type `choice` must be a list of strings")


class Constraints(Struct, kw_only=True):
    """Which tokens may be chosen, in the words of transformers and vLLM: TGI had only `watermark`."""

    min_p: float | None = None
    no_repeat_ngram_size: Uint32 | None = None
    bad_words: list[str] | None = None
    bad_words_ids: list[list[Uint32]] | None = None
    allowed_token_ids: list[Uint32] | None = None
    min_tokens: Uint32 | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[Uint32] | None = None
    watermark: bool | None = None


class GenerateParameters(Constraints, kw_only=True):
    """How to generate, in TGI's words (spec/http-api.md section 4); None is "not given".

    `presence_penalty` and `logit_bias` are ours: the OpenAI routes need them, so the native ones have them too.
    """

    best_of: Unsigned | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: Int32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: Uint32 | None = None
    return_full_text: bool | None = None
    stop: list[str] | None = None
    stop_sequences: list[str] | None = None  # the older name of `stop`
    truncate: Unsigned | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    seed: Seed | None = None
    top_n_tokens: Uint32 | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None
    logit_bias: dict[str, float] | list[float] | None = None  # TGI's list form means nothing and is ignored
    cache_salt: str | None = None  # requests find computed prefixes only of requests with the same one

    def __post_init__(self) -> None:
        _check_seed(self.seed)


class GenerateRequest(Struct, kw_only=True):
    """POST `/generate`, `/generate_stream`, `/tokenize`, and with `stream` POST `/`."""

    inputs: str
    parameters: GenerateParameters | None = None
    stream: bool | None = None


class ContentPart(Struct, kw_only=True):
    """One element of a message's content list."""

    type: str
    text: str | None = None


class Message(Struct, kw_only=True):
    """One message of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def __post_init__(self) -> None:
        if self.content is None and self.tool_calls is None:
            raise ValueError("missing field `content`")
        for part in self.content if isinstance(self.content, list) else ():
            if part.type == "text" and part.text is None:
                raise ValueError("missing field `text`")


class StreamOptions(Struct, kw_only=True):
    """What a stream of an OpenAI route says beside its tokens."""

    include_usage: bool | None = None  # one more chunk at the end, with the usage of the whole request
    continuous_usage_stats: bool | None = None  # the usage so far in every chunk


class ResponseFormat(Struct, kw_only=True):
    """What the answer must match: TGI's forms, with `value`, and OpenAI's, with `json_schema` or nothing."""

    type: Literal["text", "json_object", "json_schema", "json", "regex", "choice", "lark"]
    value: Any = None
    json_schema: dict[str, Any] | None = None
    schema: Any = None  # beside "json_object": how langchain-huggingface, among others, says `value`


class StructuredOutputs(Struct, kw_only=True):
    """What the answer must match, in vLLM's words."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None  # Lark or GBNF
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None


class OpenAiRequest(Constraints, kw_only=True):
    """The fields that the chat and completions routes share."""

    model: str | None = None
    max_tokens: Uint32 | None = None
    max_completion_tokens: Uint32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    top_k: Int32 | None = None  # 0 and -1: off
    typical_p: float | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | list[float] | None = None
    n: Uint32 | None = None
    include_stop_str_in_output: bool | None = None
    response_format: ResponseFormat | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structured_outputs: StructuredOutputs | None = None
    cache_salt: str | None = None

    def __post_init__(self) -> None:
        _check_seed(self.seed)


class ChatRequest(OpenAiRequest, kw_only=True):
    """POST `/v1/chat/completions` and `/chat_tokenize`."""

    messages: list[Message]
    logprobs: bool | None = None
    top_logprobs: Uint32 | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    tool_prompt: str | None = None
    chat_template: Any = None  # a template from a client is a program from a client: refused
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None  # by default, if the assistant spoke last


class CompletionRequest(OpenAiRequest, kw_only=True):
    """POST `/v1/completions`."""

    prompt: str | list[str | int | list[int]]  # a text, texts, token ids, or lists of them; never mixed
    best_of: Uint32 | None = None
    suffix: Any = None
    echo: bool | None = None
    logprobs: bool | Uint32 | None = None

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if self.prompt == []:
            raise ValueError("Empty array detected. Do not use an empty array for the prompt.")
        if isinstance(self.prompt, list) and len({type(part) for part in self.prompt}) > 1:
            raise ValueError("`prompt` mixes texts, token ids and lists of token ids")


class VertexRequest(Struct, kw_only=True):
    """POST `/vertex`: any number of `GenerateRequest` and `ChatRequest`."""

    instances: list[msgspec.Raw]


class PromptRequest(Struct, kw_only=True):
    """POST `/tokenize` in the form of other servers."""

    prompt: str
    add_special_tokens: bool | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """POST `/detokenize`."""

    tokens: list[Uint32]


class _Kind(Struct):
    inputs: Any = None
    messages: Any = None
    prompt: Any = None


def kind(body: bytes) -> str | None:
    """Which of `inputs`, `messages` and `prompt` a body has, for routes that take several requests; None if none.

    Raises: Rejected, as `parse`.
    """
    found = parse(_Kind, body)
    if isinstance(found.inputs, str):
        return "inputs"
    return "messages" if found.messages is not None else "prompt" if found.prompt is not None else None


def parse(type: type[Body], body: bytes) -> Body:
    """The body as a `type`.

    Raises: Rejected with status 400 (not JSON, too deeply nested) or 422 (JSON of another shape).
    """
    try:
        if body.count(b"[") + body.count(b"{") > MAX_NESTING:  # may be strings' content: look closer
            _check_nesting(msgspec.json.decode(body))
        parsed: Body = _decoder(cast(Hashable, type)).decode(body)
    except msgspec.ValidationError as error:
        raise Rejected(422, _WRONG_SHAPE + _with_path(str(error))) from None
    except msgspec.DecodeError as error:
        raise Rejected(400, _NOT_JSON + str(error)) from None
    except UnicodeDecodeError:
        raise Rejected(400, _NOT_JSON + "a string is not valid UTF-8") from None
    except RecursionError:
        raise Rejected(400, f"{_NOT_JSON}more than {MAX_NESTING} levels of nesting") from None
    return parsed


@functools.cache
def _decoder(type: Hashable) -> Any:
    return msgspec.json.Decoder(cast(Any, type))


def _with_path(message: str) -> str:
    """msgspec's "reason - at `$.path`" as "path: reason"."""
    reason, _, path = message.partition(" - at `$")
    reason = reason.replace("Object missing required field", "missing field")
    path = path.rstrip("`").lstrip(".")
    return f"{path}: {reason}" if path else reason


def _check_nesting(value: Any) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise RecursionError


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_seed(seed: int | None) -> None:
    if seed is not None and seed >= 2**64:
        raise ValueError("Expected `int` <= 18446744073709551615")
