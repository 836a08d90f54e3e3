"""How many tokens a step may compute while requests decode, so that a long prompt does not make them wait."""

from __future__ import annotations

STRETCH = 1.75  # how much longer a step may take than one that only decodes
LEAST_PROMPT_S = 0.06  # or this much longer, whatever is more: small pieces of a prompt cost every request throughput
LEAST_PROMPT_TOKENS = 8  # beside decoding requests: fewer would read all weights for little
ALIKE = 0.25  # decoding steps of so many more or fewer rows take about as long
_BLEND = 0.2  # weight of the newest step


class Pace:
    """Learns from past steps what decoding and a prompt's token cost, and sizes the next step by it.

    While more requests wait for their first token than for their next, prompts get as much more of a step: 32 requests
    that come together begin soon, and then decode together.

    Tokens do not depend on it: whatever the chunks, a prompt is computed to the same bits (docs/design.md, 2).
    Units: seconds; `most` tokens a step, reached while nobody decodes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._decoding = 0
        self._prompts = 0
        self._decode_s: float | None = None  # of a step without prompts,
        self._decode_rows = 0  # for so many requests
        self._token_s: float | None = None  # what a prompt's token adds

    def step_tokens(self) -> int:
        """The token budget of the next step."""
        if not self._decoding or self._decode_s is None or self._token_s is None:
            return self._most
        least_s = LEAST_PROMPT_S * max(1.0, self._prompts / self._decoding)
        beside = int(max((STRETCH - 1) * self._decode_s, least_s) / self._token_s)
        return min(self._most, self._decoding + max(LEAST_PROMPT_TOKENS, beside))

    def learn(self, decoding: int, prompts: int, decode_tokens: int, prefill_tokens: int, step_s: float) -> None:
        """Take in a step.

        How many requests go on decoding after it, how many still wait for a first token; what it computed, and how
        long it took.
        """
        self._decoding, self._prompts = decoding, prompts
        alike = abs(decode_tokens - self._decode_rows) <= ALIKE * self._decode_rows
        if not prefill_tokens:
            self._decode_s = _blend(self._decode_s if alike else None, step_s)
            self._decode_rows = decode_tokens
            return
        if decode_tokens and (self._decode_s is None or not alike):
            return  # nobody can say which part was the prompt's
        beside = self._decode_s if decode_tokens and self._decode_s is not None else 0.0
        if step_s > beside:
            self._token_s = _blend(self._token_s, (step_s - beside) / prefill_tokens)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _BLEND * (new - old)
