"""What the chat and completions endpoints have in common: OpenAI's words for TGI's things."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tgi.errors import RequestError
from tgi.server.detokenizer import StopRule
from tgi.server.grammars import asked_grammar
from tgi.server.inference import Generation
from tgi.server.responses import Usage
from tgi.server.schemas import Constraints, GenerateParameters, OpenAiRequest
from tgi.server.services import FINGERPRINT

FINISH = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


class OpenAiRefusal(RequestError):
    """A request that TGI refuses with an `error_type` of its own."""

    status = 422

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is the same in every chunk of one answer."""

    model: str
    prefix: str  # "chatcmpl" or "cmpl"
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))
    fingerprint: str = FINGERPRINT

    @property
    def id(self) -> str:
        """The answer's name."""
        return f"{self.prefix}-{self.token}"


def parameters(body: OpenAiRequest) -> GenerateParameters:
    """OpenAI's parameters as TGI's: sampling by default, greedy at temperature 0 (and at `top_p` 0).

    Where a choice is greedy, parameters of sampling mean nothing. `top_k` of 0 and -1 is "off", as in vLLM.
    """
    greedy = body.temperature == 0.0 or body.top_p == 0.0
    maximum = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    constraints = {name: getattr(body, name) for name in Constraints.__struct_fields__}
    if greedy:
        constraints["min_p"] = None
    return GenerateParameters(
        **constraints,
        do_sample=not greedy,
        temperature=None if greedy else body.temperature,
        top_p=None if greedy else body.top_p,
        top_k=None if greedy or body.top_k in (0, -1) else body.top_k,
        typical_p=None if greedy else body.typical_p,
        repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        max_new_tokens=maximum,
        stop=[body.stop] if isinstance(body.stop, str) else body.stop,
        seed=body.seed,
        logit_bias=body.logit_bias,
        grammar=asked_grammar(body),
        cache_salt=body.cache_salt,
    )


def stop_rule(body: OpenAiRequest) -> StopRule:
    """What becomes of a stop sequence (decision D4)."""
    return StopRule.INCLUDE if body.include_stop_str_in_output else StopRule.STRIP


def wants_usage(body: OpenAiRequest, *, always: bool = False) -> bool:
    """Whether a stream ends with a chunk of usage, or with `always`: whether every chunk has the usage so far."""
    options = body.stream_options
    return options is not None and bool(options.continuous_usage_stats if always else options.include_usage)


def usage(prompt_tokens: int, generations: Sequence[Generation]) -> Usage:
    """Tokens of the prompts, and of everything generated for them."""
    generated = sum(generation.generated for generation in generations)
    return Usage(prompt_tokens, generated, prompt_tokens + generated)
