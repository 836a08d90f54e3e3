"""What a request says about the tokens that may be chosen: its limits, and its form for the engine.

Every token id is held against the width of the logits, never against the tokenizer's length (spec/reliability.md V13).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgi.errors import ValidationError
from tgi.server.schemas import GenerateParameters
from tgi.server.tokenizer import Tokenizer

MAX_NGRAM = 64
MAX_LISTED = 300  # words, sequences or stop ids
MAX_WORD_CHARACTERS = 256
MAX_WORD_TOKENS = 256


def check_constraints(asked: GenerateParameters, vocab_size: int) -> None:
    """Whether every constraint is in its range. Raises: ValidationError."""
    if asked.min_p is not None and not 0.0 <= asked.min_p <= 1.0:
        raise ValidationError("`min_p` must be >= 0.0 and <= 1.0")
    if (asked.no_repeat_ngram_size or 0) > MAX_NGRAM:
        raise ValidationError(
            f"`no_repeat_ngram_size` must be >= 0 and <= {MAX_NGRAM}. Given: {asked.no_repeat_ngram_size}"
        )
    words, sequences = asked.bad_words or [], asked.bad_words_ids or []
    _check_count("bad_words", len(words))
    _check_count("bad_words_ids", len(sequences))
    _check_count("stop_token_ids", len(asked.stop_token_ids or ()))
    if any(not 0 < len(word) <= MAX_WORD_CHARACTERS for word in words):
        raise ValidationError(f"`bad_words` must have 1 to {MAX_WORD_CHARACTERS} characters")
    if any(not 0 < len(sequence) <= MAX_WORD_TOKENS for sequence in sequences):
        raise ValidationError(f"`bad_words_ids` must have 1 to {MAX_WORD_TOKENS} tokens")
    if asked.allowed_token_ids is not None and not asked.allowed_token_ids:
        raise ValidationError("`allowed_token_ids` cannot be empty")
    _check_ids("bad_words_ids", [token_id for sequence in sequences for token_id in sequence], vocab_size)
    _check_ids("allowed_token_ids", asked.allowed_token_ids or (), vocab_size)
    _check_ids("stop_token_ids", asked.stop_token_ids or (), vocab_size)
    if asked.ignore_eos and asked.grammar is not None:
        raise ValidationError("`ignore_eos` cannot be used with a grammar: only the end may follow a complete output")


def stop_ids(asked: GenerateParameters, eos_ids: Sequence[int]) -> tuple[int, ...]:
    """The tokens that end the request's sequences."""
    return tuple(sorted({*(() if asked.ignore_eos else eos_ids), *(asked.stop_token_ids or ())}))


async def constraints(
    asked: GenerateParameters, tokenizer: Tokenizer, *, longest: int, vocab_size: int
) -> dict[str, Any]:
    """The constraints as fields of `SamplingParams`; `longest` is how many tokens there may be where none is asked for.

    Raises: ValidationError for a minimum beyond the maximum, and for words that the tokenizer cannot express.
    """
    minimum = asked.min_tokens or 0
    maximum = longest if asked.max_new_tokens is None else asked.max_new_tokens
    if minimum > maximum:
        raise ValidationError(f"`min_tokens` must be <= `max_new_tokens`. Given: {minimum} and {maximum}")
    words = {tuple(sequence): None for sequence in asked.bad_words_ids or ()}
    for word in asked.bad_words or ():
        # At the beginning of a text, and inside one: where a space belongs to the token, those are different tokens.
        for text in (word, " " + word.lstrip()):
            ids = tuple(await tokenizer.encode(text, add_special_tokens=False))
            if not ids or max(ids) >= vocab_size:
                raise ValidationError("`bad_words` must consist of tokens that the model can choose")
            words[ids] = None
    return {
        "min_p": asked.min_p or 0.0,
        "no_repeat_ngram_size": asked.no_repeat_ngram_size or 0,
        "bad_words": tuple(words),
        "allowed_token_ids": tuple(sorted(set(asked.allowed_token_ids or ()))),
        "min_tokens": minimum,
        "withheld": tuple(sorted({*tokenizer.eos_ids, *(asked.stop_token_ids or ())})) if minimum else (),
    }


def _check_count(name: str, count: int) -> None:
    if count > MAX_LISTED:
        raise ValidationError(f"`{name}` supports up to {MAX_LISTED} entries. Given: {count}")


def _check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    if any(token_id >= vocab_size for token_id in ids):
        raise ValidationError(f"`{name}` token ids must be >= 0 and < {vocab_size}")
