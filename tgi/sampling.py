"""What a request says about the choice of its tokens, and what it hears back: shared by every process."""

from __future__ import annotations

import msgspec

NOT_NUMBERS = "the model's logits are not numbers"  # why a request failed alone


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request's tokens are chosen. Every default means "off".

    A token is a pure function of the logits, these parameters and (seed, sequence_index, position): nothing here, and
    nothing in the sampler, depends on the batch or on a generator's state.
    """

    do_sample: bool = False  # False: argmax of the processed logits
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output tokens (CTRL, Keskar et al. 2019)
    frequency_penalty: float = 0.0  # over output tokens, times count (OpenAI)
    presence_penalty: float = 0.0  # over output tokens, once (OpenAI)
    logit_bias: dict[int, float] = {}  # token id -> added to its logit
    watermark_gamma: float = 0.0  # share of the vocabulary that is green at each position; 0: no watermark
    watermark_delta: float = 0.0  # added to the logits of green tokens (Kirchenbauer et al. 2023)
    no_repeat_ngram_size: int = 0  # no run of so many tokens, of prompt and output, comes twice
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that never become complete
    allowed_token_ids: tuple[int, ...] = ()  # nothing else is chosen; empty: everything may be
    min_tokens: int = 0  # before so many output tokens, none of `withheld` is chosen
    withheld: tuple[int, ...] = ()  # the ids that could end the sequence
    grammar: str = ""  # what the output must match, in the form tgi.guidance writes; "" allows everything
    seed: int = 0  # 64 bits, drawn at admission when the client gives none
    sequence_index: int = 0  # which of the best_of / n sequences of one HTTP request


class TopTokens(msgspec.Struct, frozen=True, array_like=True):
    """The most likely tokens at one position, most likely first."""

    token_ids: bytes  # int32 column
    logprobs: bytes  # float32 column
