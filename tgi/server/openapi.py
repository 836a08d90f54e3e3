"""The description of the HTTP interface as OpenAPI 3.1, made of the route table and of the types it reads and writes.

What a route does is told once, in `OPERATIONS`; a route without an entry there cannot be described, which a test sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from aiohttp.typedefs import Handler
from msgspec import Struct

from tgi import __version__
from tgi.server.responses import (
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChunk,
    GenerateResponse,
    SimpleToken,
    StreamResponse,
)
from tgi.server.routes import chat, cloud, completions, docs, generate, health, info, metrics, tokenize
from tgi.server.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    PromptRequest,
    VertexRequest,
)

JSON, EVENTS = "application/json", "text/event-stream"
_REF = "#/components/schemas/{name}"
_PATTERN = re.compile(r"\{(\w+):[^}]*\}")  # a path parameter with a regular expression


class Route(NamedTuple):
    """One line of the route table."""

    method: str
    path: str
    handler: Handler
    open: bool  # answered without the api key


class ErrorResponse(Struct, kw_only=True):
    """Why a request was refused or failed: words for people, and TGI's name of the kind."""

    error: str
    error_type: str


class Unhealthy(Struct, kw_only=True):
    """What keeps the server from serving: `starting`, `recovering`, `draining` or `failed`."""

    error: str
    error_type: str
    status: str


class ChatTokens(Struct, kw_only=True):
    """The answer of `/chat_tokenize`."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class StreamError(Struct, kw_only=True):
    """What an OpenAI stream says of a failure."""

    message: str
    http_status_code: int


class ErrorEvent(Struct, kw_only=True):
    """The last event but `[DONE]` of an OpenAI stream that failed."""

    error: StreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one handler reads and writes. `answers` are its types of status 200 by media type; None is plain text."""

    summary: str
    tag: str
    body: tuple[type, ...] = ()
    answers: Mapping[str, tuple[Any, ...]]
    statuses: tuple[int, ...] = ()
    timed: bool = False  # a plain answer carries the headers of spec/http-api.md section 14


_TOKENS = (400, 408, 413, 415, 422, 500, 503)
_GENERATION = (400, 408, 413, 415, 422, 424, 429, 500, 503)
_NATIVE_EVENTS, _CHAT_EVENTS, _COMPLETION_EVENTS = (
    (StreamResponse, ErrorResponse), (ChatChunk, ErrorEvent), (CompletionChunk, ErrorEvent)
)  # fmt: skip

OPERATIONS: Mapping[Handler, Operation] = {
    generate.compat_generate: Operation(
        summary="Generate tokens, or stream them if `stream` is true", tag="Text generation", body=(GenerateRequest,),
        answers={JSON: (list[GenerateResponse],), EVENTS: _NATIVE_EVENTS}, statuses=_GENERATION, timed=True,
    ),
    generate.generate: Operation(
        summary="Generate tokens", tag="Text generation", body=(GenerateRequest,),
        answers={JSON: (GenerateResponse,)}, statuses=_GENERATION, timed=True,
    ),
    generate.generate_stream: Operation(
        summary="Stream tokens; a request that is refused is told so in the stream", tag="Text generation",
        body=(GenerateRequest,), answers={EVENTS: _NATIVE_EVENTS}, statuses=(400, 408, 413, 415, 422, 500, 503),
    ),
    chat.chat_completions: Operation(
        summary="Answer a conversation, as OpenAI", tag="OpenAI", body=(ChatRequest,),
        answers={JSON: (ChatCompletion,), EVENTS: _CHAT_EVENTS}, statuses=_GENERATION, timed=True,
    ),
    completions.completions: Operation(
        summary="Continue one prompt or several, as OpenAI", tag="OpenAI", body=(CompletionRequest,),
        answers={JSON: (Completion,), EVENTS: _COMPLETION_EVENTS}, statuses=_GENERATION, timed=True,
    ),
    info.models: Operation(summary="The models that are served", tag="OpenAI", answers={JSON: (info.ModelList,)}),
    info.model: Operation(
        summary="One model that is served", tag="OpenAI", answers={JSON: (info.Model,)}, statuses=(404,)
    ),
    tokenize.tokenize: Operation(
        summary="Tokens of a text or a conversation", tag="Tokens", body=(GenerateRequest, PromptRequest, ChatRequest),
        answers={JSON: (list[SimpleToken], tokenize.TokenIds)}, statuses=_TOKENS,
    ),
    chat.chat_tokenize: Operation(
        summary="The prompt a conversation becomes, and its tokens", tag="Tokens", body=(ChatRequest,),
        answers={JSON: (ChatTokens,)}, statuses=_TOKENS,
    ),
    tokenize.detokenize: Operation(
        summary="The text of tokens", tag="Tokens", body=(DetokenizeRequest,),
        answers={JSON: (tokenize.Text,)}, statuses=_TOKENS,
    ),
    tokenize.tokenizer_info: Operation(
        summary="The tokenizer's special tokens and chat template", tag="Tokens",
        answers={JSON: (tokenize.TokenizerInfo,)}, statuses=(503,),
    ),
    cloud.invocations: Operation(
        summary="SageMaker: what `/`, `/v1/chat/completions` or `/v1/completions` answers", tag="Cloud platforms",
        body=(GenerateRequest, ChatRequest, CompletionRequest),
        answers={
            JSON: (list[GenerateResponse], ChatCompletion, Completion),
            EVENTS: (StreamResponse, ChatChunk, CompletionChunk, ErrorResponse, ErrorEvent),
        },
        statuses=_GENERATION, timed=True,
    ),
    cloud.vertex: Operation(
        summary="Vertex AI: the texts of several requests", tag="Cloud platforms", body=(VertexRequest,),
        answers={JSON: (cloud.Predictions,)}, statuses=_GENERATION,
    ),
    info.info: Operation(summary="What is served, within which limits", tag="Server", answers={JSON: (info.Info,)}),
    health.health: Operation(
        summary="Whether the next request can be served", tag="Server", answers={}, statuses=(503,)
    ),
    metrics.metrics: Operation(summary="Prometheus metrics", tag="Server", answers={"text/plain": ()}),
}  # fmt: skip
# The description and its page describe everything but themselves.
UNDESCRIBED: frozenset[Handler] = frozenset({docs.redirect, docs.page, docs.asset, docs.description})

STATUSES = {
    200: "Success",
    400: "The body is not JSON",
    401: "The api key is missing or wrong",
    404: "There is no such model",
    408: "The body arrives too slowly",
    413: "The body is too large",
    415: "The body does not say that it is JSON",
    422: "The request asks for something that cannot be done; `error` says what",
    424: "The engine failed this request",
    429: "Too many requests; try again after `retry-after`",
    500: "The server failed",
    503: "The server is starting, recovering or shutting down; try again after `retry-after`",
}
_TIMES = {
    "x-compute-type": "what computed the answer",
    "x-compute-characters": "characters of the prompt",
    "x-compute-time": "seconds from receipt to the end",
    "x-total-time": "milliseconds from receipt to the end",
    "x-validation-time": "milliseconds from receipt to the queue",
    "x-queue-time": "milliseconds in the queue",
    "x-inference-time": "milliseconds from the queue to the end",
    "x-time-per-token": "milliseconds a generated token",
    "x-prompt-tokens": "tokens of the prompt",
    "x-generated-tokens": "tokens of the answer",
}
_RETRY = {"retry-after": "seconds until it is worth trying again", "retry-after-ms": "the same in milliseconds"}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole description. Raises: KeyError for a route that `OPERATIONS` does not know."""
    described = [route for route in routes if route.handler not in UNDESCRIBED]
    types = _types(described)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = dict(zip(map(str, types), schemas, strict=True))
    # The instances are decoded one by one, each as what it looks like, so their type says nothing.
    components["VertexRequest"]["properties"]["instances"]["items"] = _one_of((GenerateRequest, ChatRequest), known)
    paths: dict[str, Any] = {}
    for route in described:
        path = _PATTERN.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Text Generation Inference",
            "description": "Text generation with TGI's interface and OpenAI's.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            "version": __version__,
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer", "description": "`--api-key`"}},
        },
    }


def _types(routes: Iterable[Route]) -> list[Any]:
    found: dict[str, Any] = {str(type): type for type in (ErrorResponse, Unhealthy, GenerateRequest, ChatRequest)}
    for route in routes:
        operation = OPERATIONS[route.handler]
        for type in (*operation.body, *(type for types in operation.answers.values() for type in types)):
            found[str(type)] = type
    return list(found.values())


def _operation(route: Route, path: str, known: Mapping[str, Any]) -> dict[str, Any]:
    operation = OPERATIONS[route.handler]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    described: dict[str, Any] = {
        "operationId": f"{route.method.lower()} {path}",
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(route, operation, known),
    }
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": _one_of(operation.body, known)}}}
    if not route.open:
        described["security"] = [{}, {"api_key": []}]  # without `--api-key` everything is open
    return described


def _responses(route: Route, operation: Operation, known: Mapping[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": STATUSES[200]}
    if operation.answers:
        success["content"] = {
            media: {"schema": _content(media, types, known)} for media, types in operation.answers.items()
        }
    if operation.timed:
        success["headers"] = _headers(_TIMES)
    responses = {"200": success}
    error: type = Unhealthy if route.handler is health.health else ErrorResponse
    for status in operation.statuses:
        responses[str(status)] = {"description": STATUSES[status], "content": {JSON: {"schema": known[str(error)]}}}
        if status in (429, 503) and error is ErrorResponse:
            responses[str(status)]["headers"] = _headers(_RETRY)
    if not route.open:
        responses["401"] = {"description": STATUSES[401]}
    return dict(sorted(responses.items()))


def _content(media: str, types: tuple[Any, ...], known: Mapping[str, Any]) -> Any:
    if media == JSON:
        return _one_of(types, known)
    if media == EVENTS:  # one event of the stream, in the way of OpenAPI 3.2
        data: Any = {"type": "string", "contentMediaType": JSON, "contentSchema": _one_of(types, known)}
        if ErrorEvent in types:  # OpenAI's streams end so
            data = {"anyOf": [data, {"const": "[DONE]"}]}
        return {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {"type": "string"}


def _headers(described: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def _one_of(types: Iterable[Any], known: Mapping[str, Any]) -> Any:
    schemas = [known[str(type)] for type in types]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
