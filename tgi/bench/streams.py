"""Reads the event stream of one answer: when each token came, how many there were, and whether it ended well.

Three protocols: `tgi` (`/generate_stream`), `chat` (`/v1/chat/completions`) and `completions` (`/v1/completions`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import msgspec
from msgspec import Struct

TGI, CHAT, COMPLETIONS = "tgi", "chat", "completions"
PROTOCOLS = (TGI, CHAT, COMPLETIONS)
PATHS = {TGI: "/generate_stream", CHAT: "/v1/chat/completions", COMPLETIONS: "/v1/completions"}


class _Token(Struct):
    text: str = ""
    special: bool = False


class _Details(Struct):
    generated_tokens: int = 0
    input_length: int = 0


class _TgiEvent(Struct):
    token: _Token | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None
    error_type: str | None = None


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _OpenAiEvent(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_TGI_DECODER = msgspec.json.Decoder(_TgiEvent)
_OPENAI_DECODER = msgspec.json.Decoder(_OpenAiEvent)


class StreamReader(ABC):
    """One answer, fed with its bytes as they come."""

    def __init__(self, *, keep_text: bool = False) -> None:
        self.token_times: list[float] = []  # of each event with a token, on the clock of `feed`
        self.prompt_tokens = 0  # as the server says; 0 where it does not
        self.finished = False
        self.error: str | None = None
        self.message: str | None = None
        self._said_tokens = 0
        self._pieces: list[str] | None = [] if keep_text else None
        self._rest = b""

    @property
    def output_tokens(self) -> int:
        """Generated tokens: as the server says, else the events that had one."""
        return self._said_tokens or len(self.token_times)

    @property
    def text(self) -> str:
        """The answer, where it was to be kept."""
        return "".join(self._pieces or ())

    def feed(self, data: bytes, now: float) -> None:
        """Some bytes of the stream; all events in them came at `now`."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._data(line[5:].strip(), now)

    def close(self) -> None:
        """The stream ended: an answer without its last event is an error."""
        if self.error is None and not self.finished:
            self._fail("incomplete", "the stream ended without its last event")

    def _data(self, payload: bytes, now: float) -> None:
        if self.error is not None:
            return
        try:
            self._event(payload, now)
        except msgspec.DecodeError as error:
            self._fail("malformed", f"{error}: {payload[:80].decode(errors='replace')}")

    def _fail(self, kind: str, message: str) -> None:
        self.error, self.message = kind, message

    def _took(self, text: str, now: float) -> None:
        self.token_times.append(now)
        if self._pieces is not None:
            self._pieces.append(text)

    @abstractmethod
    def _event(self, payload: bytes, now: float) -> None:
        """One event's data. Raises: msgspec.DecodeError."""


class TgiReader(StreamReader):
    """An answer of `/generate_stream`: an event a token, the last one with the whole text."""

    def _event(self, payload: bytes, now: float) -> None:
        event = _TGI_DECODER.decode(payload)
        if event.error is not None:
            self._fail(f"stream_{event.error_type or 'error'}", _words(event.error))
            return
        if event.token is not None:
            self._took("" if event.token.special else event.token.text, now)
        if event.details is not None:
            self._said_tokens = event.details.generated_tokens
            self.prompt_tokens = event.details.input_length or self.prompt_tokens
        if event.generated_text is not None or event.details is not None:
            self.finished = True


class OpenAiReader(StreamReader):
    """An answer of an OpenAI route: chunks with text, a finish reason, usage, `[DONE]`."""

    def _event(self, payload: bytes, now: float) -> None:
        if payload == b"[DONE]":
            return
        event = _OPENAI_DECODER.decode(payload)
        if event.error is not None:
            self._fail("stream_error", _words(event.error))
            return
        if event.usage is not None:
            self.prompt_tokens = event.usage.prompt_tokens
            self._said_tokens = event.usage.completion_tokens or 0
        for choice in event.choices:
            text = choice.text
            if choice.delta is not None:
                delta = choice.delta
                text = delta.content or delta.reasoning_content or delta.reasoning or ("\0" if delta.tool_calls else "")
            if text:
                self._took(text, now)
            self.finished = self.finished or choice.finish_reason is not None


def reader(protocol: str, *, keep_text: bool = False) -> StreamReader:
    """The reader of a protocol's answers."""
    return TgiReader(keep_text=keep_text) if protocol == TGI else OpenAiReader(keep_text=keep_text)


def _words(error: Any) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()
