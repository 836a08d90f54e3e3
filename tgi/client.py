"""A client for TGI's own routes and OpenAI's, with the interface of TGI's old Python client.

Code written for the distribution `tgi` (or for `text-generation`) runs unchanged: `from tgi import Client`. New code is
better served by `openai` or `huggingface_hub`. A server's refusals are the exceptions of `tgi.errors`; a server that
cannot be reached is an `OSError` for `Client`, and an `aiohttp.ClientError` for `AsyncClient`.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tgi.errors import parse_error
from tgi.types import (
    ChatComplete,
    ChatCompletionChunk,
    Completion,
    CompletionComplete,
    Grammar,
    Message,
    Parameters,
    Request,
    Response,
    StreamResponse,
    Tool,
    Value,
    read,
)

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T", bound=Value)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_DONE = b"[DONE]"


class Client:
    """Calls a server and waits. `timeout` is in seconds, for connecting and for each part of an answer."""

    def __init__(
        self, base_url: str, headers: Mapping[str, str] | None = None, cookies: Mapping[str, str] | None = None,
        timeout: float = 10,
    ) -> None:  # fmt: skip
        self.base_url = base_url
        self.headers = headers
        self.cookies = cookies
        self.timeout = timeout

    def generate(
        self, prompt: str, do_sample: bool = False, max_new_tokens: int = 20, best_of: int | None = None,
        repetition_penalty: float | None = None, frequency_penalty: float | None = None, return_full_text: bool = False,
        seed: int | None = None, stop_sequences: Sequence[str] | None = None, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, truncate: int | None = None,
        typical_p: float | None = None, watermark: bool = False, decoder_input_details: bool = False,
        top_n_tokens: int | None = None, grammar: Grammar | None = None,
    ) -> Response:  # fmt: skip
        """Generate what follows a prompt. Raises: the errors of `tgi.errors`."""
        body = _generation(
            prompt, False, do_sample=do_sample, max_new_tokens=max_new_tokens, best_of=best_of,
            repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
            return_full_text=return_full_text, seed=seed, stop=stop_sequences, temperature=temperature, top_k=top_k,
            top_p=top_p, truncate=truncate, typical_p=typical_p, watermark=watermark,
            decoder_input_details=decoder_input_details, top_n_tokens=top_n_tokens, grammar=grammar,
        )  # fmt: skip
        return _first(self._whole("", body))

    def generate_stream(
        self, prompt: str, do_sample: bool = False, max_new_tokens: int = 20, repetition_penalty: float | None = None,
        frequency_penalty: float | None = None, return_full_text: bool = False, seed: int | None = None,
        stop_sequences: Sequence[str] | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, truncate: int | None = None, typical_p: float | None = None,
        watermark: bool = False, top_n_tokens: int | None = None, grammar: Grammar | None = None,
    ) -> Iterator[StreamResponse]:  # fmt: skip
        """Generate what follows a prompt, token by token. Raises: the errors of `tgi.errors`, also in its midst."""
        body = _generation(
            prompt, True, do_sample=do_sample, max_new_tokens=max_new_tokens, repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty, return_full_text=return_full_text, seed=seed, stop=stop_sequences,
            temperature=temperature, top_k=top_k, top_p=top_p, truncate=truncate, typical_p=typical_p,
            watermark=watermark, top_n_tokens=top_n_tokens, grammar=grammar,
        )  # fmt: skip
        return self._events("", body, StreamResponse)

    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], repetition_penalty: float | None = None,
        frequency_penalty: float | None = None, logit_bias: Any = None, logprobs: bool | None = None,
        top_logprobs: int | None = None, max_tokens: int | None = None, n: int | None = None,
        presence_penalty: float | None = None, stream: bool = False, seed: int | None = None,
        temperature: float | None = None, top_p: float | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None, tool_prompt: str | None = None,
        tool_choice: Any = None, stop: Sequence[str] | None = None,
    ) -> ChatComplete | Iterator[ChatCompletionChunk]:  # fmt: skip
        """Answer a conversation: whole, or as an iterator with `stream`. Raises: the errors of `tgi.errors`."""
        body = _openai(
            messages=messages, repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
            logit_bias=logit_bias, logprobs=logprobs, top_logprobs=top_logprobs, max_tokens=max_tokens, n=n,
            presence_penalty=presence_penalty, stream=stream, seed=seed, temperature=temperature, top_p=top_p,
            tools=tools, tool_prompt=tool_prompt, tool_choice=tool_choice, stop=stop,
        )  # fmt: skip
        return self._events(CHAT, body, ChatCompletionChunk) if stream else read(ChatComplete, self._whole(CHAT, body))

    def completion(
        self, prompt: str, frequency_penalty: float | None = None, max_tokens: int | None = None,
        repetition_penalty: float | None = None, seed: int | None = None, stream: bool = False,
        temperature: float | None = None, top_p: float | None = None, stop: Sequence[str] | None = None,
    ) -> Completion | Iterator[CompletionComplete]:  # fmt: skip
        """Complete a text: whole, or as an iterator with `stream`. Raises: the errors of `tgi.errors`."""
        body = _openai(
            prompt=prompt, frequency_penalty=frequency_penalty, max_tokens=max_tokens, seed=seed, stream=stream,
            repetition_penalty=repetition_penalty, temperature=temperature, top_p=top_p, stop=stop,
        )  # fmt: skip
        if not stream:
            return read(Completion, self._whole(COMPLETIONS, body))
        return (choice for event in self._events(COMPLETIONS, body, Completion) for choice in event.choices)

    def _whole(self, path: str, body: bytes) -> Any:
        with self._send(path, body) as response:
            return json.load(response)

    def _events(self, path: str, body: bytes, kind: type[T]) -> Iterator[T]:
        with self._send(path, body) as response:
            for line in response:
                if data := _data(line):
                    yield _event(data, kind, response.status)

    def _send(self, path: str, body: bytes) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", **(self.headers or {})}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        request = urllib.request.Request(self.base_url + path, data=body, headers=headers)
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self.timeout)
            return response
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise _refusal(refusal.code, refusal.read()) from None


class AsyncClient:
    """Calls a server without blocking the event loop. `timeout` is in seconds, for a whole answer."""

    def __init__(
        self, base_url: str, headers: Mapping[str, str] | None = None, cookies: Mapping[str, str] | None = None,
        timeout: float = 10,
    ) -> None:  # fmt: skip
        self.base_url = base_url
        self.headers = headers
        self.cookies = cookies
        self.timeout = timeout

    async def generate(
        self, prompt: str, do_sample: bool = False, max_new_tokens: int = 20, best_of: int | None = None,
        repetition_penalty: float | None = None, frequency_penalty: float | None = None, return_full_text: bool = False,
        seed: int | None = None, stop_sequences: Sequence[str] | None = None, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, truncate: int | None = None,
        typical_p: float | None = None, watermark: bool = False, decoder_input_details: bool = False,
        top_n_tokens: int | None = None, grammar: Grammar | None = None,
    ) -> Response:  # fmt: skip
        """Generate what follows a prompt. Raises: the errors of `tgi.errors`."""
        body = _generation(
            prompt, False, do_sample=do_sample, max_new_tokens=max_new_tokens, best_of=best_of,
            repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
            return_full_text=return_full_text, seed=seed, stop=stop_sequences, temperature=temperature, top_k=top_k,
            top_p=top_p, truncate=truncate, typical_p=typical_p, watermark=watermark,
            decoder_input_details=decoder_input_details, top_n_tokens=top_n_tokens, grammar=grammar,
        )  # fmt: skip
        return _first(await self._whole("", body))

    async def generate_stream(
        self, prompt: str, do_sample: bool = False, max_new_tokens: int = 20, repetition_penalty: float | None = None,
        frequency_penalty: float | None = None, return_full_text: bool = False, seed: int | None = None,
        stop_sequences: Sequence[str] | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, truncate: int | None = None, typical_p: float | None = None,
        watermark: bool = False, top_n_tokens: int | None = None, grammar: Grammar | None = None,
    ) -> AsyncIterator[StreamResponse]:  # fmt: skip
        """Generate what follows a prompt, token by token. Raises: the errors of `tgi.errors`, also in its midst."""
        body = _generation(
            prompt, True, do_sample=do_sample, max_new_tokens=max_new_tokens, repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty, return_full_text=return_full_text, seed=seed, stop=stop_sequences,
            temperature=temperature, top_k=top_k, top_p=top_p, truncate=truncate, typical_p=typical_p,
            watermark=watermark, top_n_tokens=top_n_tokens, grammar=grammar,
        )  # fmt: skip
        async for event in self._events("", body, StreamResponse):
            yield event

    async def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], repetition_penalty: float | None = None,
        frequency_penalty: float | None = None, logit_bias: Any = None, logprobs: bool | None = None,
        top_logprobs: int | None = None, max_tokens: int | None = None, n: int | None = None,
        presence_penalty: float | None = None, stream: bool = False, seed: int | None = None,
        temperature: float | None = None, top_p: float | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None, tool_prompt: str | None = None,
        tool_choice: Any = None, stop: Sequence[str] | None = None,
    ) -> ChatComplete | AsyncIterator[ChatCompletionChunk]:  # fmt: skip
        """Answer a conversation: whole, or as an iterator with `stream`. Raises: the errors of `tgi.errors`."""
        body = _openai(
            messages=messages, repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
            logit_bias=logit_bias, logprobs=logprobs, top_logprobs=top_logprobs, max_tokens=max_tokens, n=n,
            presence_penalty=presence_penalty, stream=stream, seed=seed, temperature=temperature, top_p=top_p,
            tools=tools, tool_prompt=tool_prompt, tool_choice=tool_choice, stop=stop,
        )  # fmt: skip
        if stream:
            return self._events(CHAT, body, ChatCompletionChunk)
        return read(ChatComplete, await self._whole(CHAT, body))

    async def completion(
        self, prompt: str, frequency_penalty: float | None = None, max_tokens: int | None = None,
        repetition_penalty: float | None = None, seed: int | None = None, stream: bool = False,
        temperature: float | None = None, top_p: float | None = None, stop: Sequence[str] | None = None,
    ) -> Completion | AsyncIterator[CompletionComplete]:  # fmt: skip
        """Complete a text: whole, or as an iterator with `stream`. Raises: the errors of `tgi.errors`."""
        body = _openai(
            prompt=prompt, frequency_penalty=frequency_penalty, max_tokens=max_tokens, seed=seed, stream=stream,
            repetition_penalty=repetition_penalty, temperature=temperature, top_p=top_p, stop=stop,
        )  # fmt: skip
        if not stream:
            return read(Completion, await self._whole(COMPLETIONS, body))
        events = self._events(COMPLETIONS, body, Completion)
        return (choice async for event in events for choice in event.choices)

    async def _whole(self, path: str, body: bytes) -> Any:
        async with self._session() as session, session.post(self.base_url + path, data=body) as response:
            content = await response.read()
            if response.status != 200:
                raise _refusal(response.status, content)
            return json.loads(content)

    async def _events(self, path: str, body: bytes, kind: type[T]) -> AsyncIterator[T]:
        async with self._session() as session, session.post(self.base_url + path, data=body) as response:
            if response.status != 200:
                raise _refusal(response.status, await response.read())
            async for line in response.content:
                if data := _data(line):
                    yield _event(data, kind, response.status)

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415  (`import tgi` stays light)

        headers = {"Content-Type": "application/json", **(self.headers or {})}
        return aiohttp.ClientSession(
            headers=headers, cookies=self.cookies, timeout=aiohttp.ClientTimeout(self.timeout),
            read_bufsize=1 << 20,  # a line may hold as much: an event with many top tokens
        )  # fmt: skip


def _generation(prompt: str, stream: bool, *, stop: Sequence[str] | None, **options: Any) -> bytes:
    """The body of a request for TGI's route. Raises: ValidationError where no server would accept it."""
    if isinstance(options["grammar"], Mapping):
        options["grammar"] = read(Grammar, options["grammar"])
    parameters = Parameters(stop=list(stop or ()), details=True, **options)
    return _body(Request(inputs=prompt, stream=stream, parameters=parameters).dict())


def _openai(**fields: Any) -> bytes:
    return _body({"model": "tgi", **msgspec.to_builtins(fields)})


def _body(fields: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def _first(payload: Any) -> Response:
    return read(Response, payload[0] if isinstance(payload, list) else payload)


def _data(line: bytes) -> bytes:
    """What a line of an event stream carries; nothing for comments, names, blank lines and the end."""
    data = line[5:].strip() if line.startswith(b"data:") else b""
    return b"" if data == _DONE else data


def _event(data: bytes, kind: type[T], status: int) -> T:
    payload = json.loads(data)
    try:
        return read(kind, payload)
    except msgspec.ValidationError:
        if "error" not in payload:
            raise
    raise parse_error(status, payload)


def _refusal(status: int, content: bytes) -> Exception:
    try:
        payload = json.loads(content)
    except ValueError:  # a proxy's page
        payload = {"error": content.decode("utf-8", "replace")}
    return parse_error(status, payload if isinstance(payload, dict) else {"error": str(payload)})
