"""The front end's side of one engine process: from its start to its death, and never beyond."""

from __future__ import annotations

import msgspec

from tgi.engine.messages import FinishReason


class Token(msgspec.Struct, frozen=True, gc=False):
    """One generated token of one request."""

    index: int  # position in the request's output: 0 is its first token
    id: int
    logprob: float  # natural logarithm, after processors
    top: tuple[tuple[int, float], ...] = ()  # most likely tokens at this position with their log-probabilities
    finish: FinishReason = FinishReason.NONE
