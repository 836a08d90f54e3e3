"""One answer: its text as it comes, and what this side's clock and the server's `usage` say about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STOPPED = "stopped"  # the finish reason of an answer that the user cut short
LOST = "connection_lost"


@dataclass(slots=True)
class Answer:
    """What came so far. Times are seconds of `clock`."""

    clock: Callable[[], float] = time.perf_counter
    text: str = ""
    thoughts: str = ""  # what reasoning models say before they answer
    finish_reason: str | None = None
    model: str = ""
    usage: dict[str, Any] | None = None
    chunks: int = 0
    started: float = field(init=False)
    first: float | None = None
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.last = self.clock()

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk of the stream; fields that are missing or of no use change nothing."""
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        self.model = chunk.get("model") or self.model
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            content = delta.get("content") or ""
            thoughts = delta.get("reasoning_content") or delta.get("reasoning") or ""
            if content or thoughts:
                self.last = self.clock()
                self.first = self.last if self.first is None else self.first
                self.chunks += 1
            self.text += content
            self.thoughts += thoughts
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    @property
    def tokens(self) -> int:
        """Generated tokens, by the server's count; without one, the chunks that came."""
        counted = (self.usage or {}).get("completion_tokens")
        return counted if isinstance(counted, int) else self.chunks

    @property
    def exact(self) -> bool:
        """Whether `tokens` is the server's count."""
        return isinstance((self.usage or {}).get("completion_tokens"), int)

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the request to the first text."""
        return None if self.first is None else self.first - self.started

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second after the first one; None for answers too short to tell."""
        if self.first is None or self.tokens < 2 or self.last <= self.first:
            return None
        return (self.tokens - 1) / (self.last - self.first)

    def footer(self) -> str:
        """One line for people."""
        if not self.tokens and self.finish_reason == STOPPED:
            return "stopped before the first token"
        about = "" if self.exact else "about "
        parts = [f"{about}{self.tokens} token{'' if self.tokens == 1 else 's'}"]
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        if self.ttft_s is not None:
            parts.append(f"first token {_seconds(self.ttft_s)}")
            parts.append(f"total {_seconds(self.last - self.started)}")
        ends = {STOPPED: "stopped", LOST: "connection lost", "length": "cut at the length limit"}
        if self.finish_reason in ends:
            parts.append(ends[self.finish_reason])
        return " · ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """What `tgi chat --json` prints."""
        return {
            "answer": self.text,
            "reasoning": self.thoughts or None,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "tokens": self.tokens,
            "tokens_per_s": _rounded(self.tokens_per_s),
            "ttft_s": _rounded(self.ttft_s),
            "duration_s": _rounded(self.last - self.started),
        }


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
