"""Which tokens a grammar allows next, for each running request, as bits over the logits.

A matcher's whole state follows from its grammar and the tokens it accepted, so it is rebuilt by replaying them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

from tgi.guidance.grammar import parser_limits
from tgi.guidance.limits import GrammarError

Bits = npt.NDArray[np.int32]
LoadTokenizer = Callable[[], tuple[Tokenizer, Collection[int]]]  # a model's tokenizer, and the ids that end an answer


class Matcher:
    """The state of one request's grammar; threads may use different matchers at the same time.

    It is built at its first use: that may take a tenth of a second, and belongs where masks are computed.
    """

    def __init__(self, vocabulary: Callable[[], LLTokenizer], grammar: str, width: int) -> None:
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._width = width
        self._native: LLMatcher | None = None
        self._own_row: Bits | None = None

    @property
    def finished(self) -> bool:
        """Whether the output is complete and nothing can follow but the end of the answer."""
        matcher = self._built()
        return bool(matcher.is_stopped() and not matcher.is_error())

    def fill(self, bitmask: Bits) -> None:
        """Write which tokens may come next: bit t % 32 of word t // 32 for token t. Tokens that end are among them.

        Shapes: bitmask [ceil(width / 32)] int32, contiguous; bits beyond the width are 0.
        Raises: GrammarError when the grammar became too complex here; only its request is affected.
        """
        matcher = self._built()
        target = bitmask if self._own_row is None else self._own_row
        matcher.unsafe_compute_mask_ptr(target.ctypes.data, target.nbytes)
        if matcher.is_error():
            raise GrammarError(_reason(matcher))
        if self._own_row is not None:
            bitmask[:] = target[: len(bitmask)]
        if self._width % 32:
            bitmask[-1] &= (1 << self._width % 32) - 1

    def accept(self, token_id: int) -> None:
        """Advance by a chosen token. Raises: GrammarError when it was not allowed; nothing is, from then on."""
        matcher = self._built()
        if not matcher.consume_token(token_id):
            raise GrammarError(_reason(matcher))

    def _built(self) -> LLMatcher:
        if self._native is None:
            vocabulary = self._vocabulary()
            # Not copied from another request's: matchers that share a lexer share its limits, and a request would fail
            # or not with the company it keeps.
            self._native = LLMatcher(vocabulary, self._grammar, limits=parser_limits(), log_level=0)
            if vocabulary.vocab_size > self._width:
                self._own_row = np.zeros((vocabulary.vocab_size + 31) // 32, dtype=np.int32)
        return self._native


class Matchers:
    """Makes the matchers of one model.

    `load` is called once, for the first grammar.
    `width` is the number of logits: tokens that the tokenizer does not know are never allowed, nor those without a
    logit.
    """

    def __init__(self, load: LoadTokenizer, width: int) -> None:
        self._load = load
        self._width = width
        self._lock = threading.Lock()
        self._native: LLTokenizer | None = None

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the beginning of an output; `grammar` is what `tgi.guidance.grammar` made."""
        return Matcher(self._vocabulary, grammar, self._width)

    def _vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._native is None:
                tokenizer, eos_ids = self._load()
                self._native = make_vocabulary(tokenizer, eos_ids, self._width)
            return self._native


def make_vocabulary(tokenizer: Tokenizer, eos_ids: Collection[int], width: int) -> LLTokenizer:
    """A model's tokens as llguidance wants them, at least `width` of them."""
    ends = sorted(eos_id for eos_id in set(eos_ids) if eos_id < width)
    known = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    size = max(known, width)
    if not ends:  # a model without an end: an id nothing else has, which the mask then cuts off
        ends, size = [size], size + 1
    try:
        return LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=ends)
    except ValueError:  # neither byte-level nor with byte fallback
        return LLTokenizer(TokenizerWrapper(_Pieces(tokenizer, size, ends[0])), eos_token=ends)


class _Pieces:
    """The text of every token of a tokenizer that llguidance does not know, as its decoder spells it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, eos_id: int) -> None:
        self._tokenizer = tokenizer
        special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.eos_token_id = eos_id
        self.special_token_ids = sorted(special)
        anchor = next((id for id in range(size) if id not in special and tokenizer.decode([id]).strip()), None)
        self.tokens: Sequence[bytes] = [
            (tokenizer.id_to_token(id) or "").encode() if id in special else _piece(tokenizer, anchor, id)
            for id in range(size)
        ]

    def __call__(self, text: Any) -> list[int]:
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        ids: list[int] = self._tokenizer.encode(shown, add_special_tokens=False).ids
        return ids


def _piece(tokenizer: Tokenizer, anchor: int | None, token_id: int) -> bytes:
    """What a token adds to a text: decoders drop a space at the very beginning, so another token goes before it."""
    if anchor is None or tokenizer.id_to_token(token_id) is None:
        return b""
    text: str = tokenizer.decode([anchor, token_id], skip_special_tokens=False)
    return text[len(tokenizer.decode([anchor], skip_special_tokens=False)) :].encode()


def _reason(matcher: LLMatcher) -> str:
    reason: str = matcher.get_error()
    return "the grammar cannot go on: " + reason.split("\n")[0].removeprefix("parser error: ")
