"""How many tokens a step may compute while requests decode, so that a long prompt does not make them wait."""

from __future__ import annotations

STRETCH = 1.75  # how much longer a step may take than one that only decodes
PATIENCE_S = 3.0  # with prompts waiting for twice as long, twice that extra, and so on
PROMPT_S = 0.06  # until it is as much; at once for a crowd, which otherwise never decodes together
CROWD = 4  # more prompts than this, and than requests that decode, and not because they were served slowly
LEAST_PROMPT_TOKENS = 8  # beside decoding requests: fewer would read all weights for little
ALIKE = 0.25  # decoding steps of so many more or fewer rows take about as long
_BLEND = 0.2  # weight of the newest step


class Pace:
    """Learns from past steps what decoding and a prompt's token cost, and sizes the next step by it.

    Beside requests that decode, a prompt is computed in small pieces, so that their tokens come evenly. The pieces
    grow when prompts wait for long: small ones do not serve them as fast as they come. And when a crowd waits, more
    requests than decode, prompts get much of every step until all have begun: 32 requests that come together begin
    soon, and then decode together.

    Tokens do not depend on it: whatever the chunks, a prompt is computed to the same bits (docs/design.md, 2).
    Units: seconds; `most` tokens a step, reached while nobody decodes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._decoding = 0
        self._prompts = 0
        self._crowd = False  # many prompts came together
        self._waited_s = 0.0  # since there was no prompt
        self._decode_s: float | None = None  # of a step without prompts,
        self._decode_rows = 0  # for so many requests
        self._token_s: float | None = None  # what a prompt's token adds

    def step_tokens(self) -> int:
        """The token budget of the next step."""
        if not self._decoding or self._decode_s is None or self._token_s is None:
            return self._most
        # For other numbers of requests than were measured: one more costs about what a prompt's token does.
        decode_s = max(self._token_s, self._decode_s + (self._decoding - self._decode_rows) * self._token_s)
        prompt_s = (STRETCH - 1) * decode_s
        if self._crowd:
            prompt_s = max(prompt_s, PROMPT_S * max(1.0, self._prompts / self._decoding))
        elif self._waited_s > PATIENCE_S:
            prompt_s = max(prompt_s, min(PROMPT_S, prompt_s * self._waited_s / PATIENCE_S))
        return min(self._most, self._decoding + max(LEAST_PROMPT_TOKENS, int(prompt_s / self._token_s)))

    def learn(self, decoding: int, prompts: int, decode_tokens: int, prefill_tokens: int, step_s: float) -> None:
        """Take in a step.

        How many requests go on decoding after it, how many still wait for a first token; what it computed, and how
        long it took.
        """
        self._decoding, self._prompts = decoding, prompts
        self._waited_s = self._waited_s + step_s if prompts else 0.0
        together = prompts > max(CROWD, decoding) and self._waited_s < PATIENCE_S
        self._crowd = prompts > 0 and (self._crowd or together)
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
