"""What a matcher allows, over vocabularies of every kind that models have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.server.serving import EOS, byte_level, sentence_piece
from tgi.guidance.grammar import Compiler, Constraint
from tgi.guidance.limits import GrammarError
from tgi.guidance.mask import Matcher, Matchers


def word_piece() -> Tokenizer:
    words = ["[UNK]", "[SEP]", "a", "b", "cat", "##c", "##a", "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer


def matcher(pattern: str, tokenizer: Tokenizer, eos_ids: Collection[int], width: int) -> Matcher:
    grammar = Compiler().compile(Constraint("regex", pattern))
    return Matchers(lambda: (tokenizer, eos_ids), width).matcher(grammar)


def allowed(state: Matcher, width: int) -> list[int]:
    """The ids that may come next."""
    bitmask = np.zeros((width + 31) // 32, dtype=np.int32)
    state.fill(bitmask)
    ids: list[int] = np.unpackbits(bitmask.view(np.uint8), bitorder="little").nonzero()[0].tolist()
    return ids


@pytest.mark.parametrize(
    ("tokenizer", "eos_ids", "width", "expected"),
    [
        (byte_level(), {EOS}, 259, [32, 97, EOS]),
        (byte_level(), {EOS}, 320, [32, 97, EOS]),  # a model may score more tokens than its tokenizer knows
        (byte_level(), {EOS}, 258, [32, 97, EOS]),  # or fewer
        (byte_level(), {EOS, 256}, 259, [32, 97, 256, EOS]),
        (byte_level(), (), 259, [32, 97]),
        (sentence_piece(), {2}, 291, [2, 35, 100, 259, 260, 286]),  # </s> <0x20> <0x61> ▁ a ▁a
        (word_piece(), {1}, 8, [1, 2, 6]),  # [SEP] a ##a; "a" is " a" behind another word
    ],
)
def test_exactly_the_tokens_whose_text_may_follow_are_allowed(
    tokenizer: Tokenizer, eos_ids: Collection[int], width: int, expected: list[int]
) -> None:
    assert allowed(matcher("( a)*|a*", tokenizer, eos_ids, width), width) == expected


def test_a_complete_output_can_only_end() -> None:
    state = matcher("ab", byte_level(), {EOS}, 259)
    assert allowed(state, 259) == [97]
    state.accept(97)
    assert not state.finished
    state.accept(98)
    assert state.finished
    assert allowed(state, 259) == [EOS]


def test_a_token_that_is_not_allowed_is_refused_for_good() -> None:
    state = matcher("ab", byte_level(), {EOS}, 259)
    with pytest.raises(GrammarError, match="the grammar cannot go on"):
        state.accept(98)
    with pytest.raises(GrammarError):
        allowed(state, 259)


def test_the_same_tokens_lead_to_the_same_place() -> None:
    tokens = b"0110" * 6 + b"01"
    grammar = Compiler().compile(Constraint("regex", "(0|1)*1(0|1){20}"))
    matchers = Matchers(lambda: (byte_level(), {EOS}), 259)
    lived = matchers.matcher(grammar)
    for token in tokens:
        allowed(lived, 259)
        lived.accept(token)
    replayed = matchers.matcher(grammar)
    for token in tokens:
        replayed.accept(token)
    assert allowed(lived, 259) == allowed(replayed, 259) == [48, 49, EOS]


def test_the_tokenizer_is_loaded_once_and_only_for_a_grammar_that_is_used() -> None:
    loads: list[Any] = []

    def load() -> tuple[Tokenizer, Collection[int]]:
        loads.append(1)
        return byte_level(), {EOS}

    matchers = Matchers(load, 259)
    grammar = Compiler().compile(Constraint("regex", "a"))
    made = [matchers.matcher(grammar) for _ in range(3)]
    assert not loads
    assert [allowed(state, 259) for state in made] == [[97]] * 3
    assert len(loads) == 1


def test_a_grammar_that_becomes_too_complex_fails_alone() -> None:
    endless = Compiler().compile(Constraint("lark", 'start: a\na: "x" a'))
    matchers = Matchers(lambda: (byte_level(), {EOS}), 259)
    state, neighbour = matchers.matcher(endless), matchers.matcher(Compiler().compile(Constraint("regex", "xy")))
    assert allowed(state, 259) == [120]
    with pytest.raises(GrammarError, match="Too many items"):
        state.accept(120)
    neighbour.accept(120)
    assert allowed(neighbour, 259) == [121]


def test_what_is_no_grammar_is_told_when_it_is_used() -> None:
    state = Matchers(lambda: (byte_level(), {EOS}), 259).matcher("{not a grammar")
    with pytest.raises(GrammarError):
        allowed(state, 259)
