"""A row's grammar follows its tokens, from wherever they come."""

from __future__ import annotations

import numpy as np
import pytest

from tgi.runner.grammar import RowGrammar
from tgi.runner.plan import Int32, RowState
from tgi.sampling import SamplingParams

VOCAB = 70
STOP = 2


class WordMatcher:
    """Allows the characters of one word, in order; token t stands for chr(t + 32)."""

    def __init__(self, word: str) -> None:
        self.rest = [ord(character) - 32 for character in word]

    def fill(self, bitmask: Int32) -> None:
        if self.rest:
            bitmask[self.rest[0] // 32] |= np.array(1 << self.rest[0] % 32, np.uint32).view(np.int32)

    def accept(self, token_id: int) -> None:
        if not self.rest or token_id != self.rest.pop(0):
            raise ValueError(f"token {token_id} is not allowed")


class Words:
    """A grammar is a word; the empty word is none."""

    def __init__(self) -> None:
        self.made = 0

    def matcher(self, grammar: str) -> WordMatcher:
        self.made += 1
        if grammar == "!":
            raise ValueError("this is no word")
        return WordMatcher(grammar)


def state(grammar: str, output: str = "") -> RowState:
    ids = np.array([ord(character) - 32 for character in output], np.int32)
    params = SamplingParams(grammar=grammar)
    return RowState(0, params, np.array([1, 2], np.int32), ids, 0, prompt_logprobs=False, stop_ids=(STOP, 60))


def allowed(grammar: RowGrammar) -> list[int]:
    mask = grammar.allowed()
    assert mask.shape == (1, VOCAB)
    return np.flatnonzero(mask[0]).tolist()


def test_a_grammar_goes_on_with_every_token_and_ends_with_stop_ids() -> None:
    words = Words()
    grammar = RowGrammar(words, state("A?"), VOCAB)
    seen = [allowed(grammar)]
    for token_id in (33, 31):
        grammar.append(token_id)
        seen.append(allowed(grammar))

    assert seen == [[33], [31], [STOP, 60]]
    assert words.made == 1


def test_a_grammar_starts_behind_the_output_there_is() -> None:
    assert allowed(RowGrammar(Words(), state("ABC", "AB"), VOCAB)) == [35]


def test_a_stop_id_is_none_of_the_grammars() -> None:
    grammar = RowGrammar(Words(), state("AB"), VOCAB)
    grammar.append(STOP)

    assert allowed(grammar) == [33]


def test_nothing_happens_before_it_is_asked_for() -> None:
    words = Words()
    RowGrammar(words, state("!"), VOCAB).append(33)

    assert words.made == 0


@pytest.mark.parametrize(("factory", "text", "output"), [(None, "A", ""), (Words(), "!", ""), (Words(), "AB", "C")])
def test_what_a_grammar_cannot_do_is_an_error(factory: Words | None, text: str, output: str) -> None:
    with pytest.raises(ValueError, match=r"knows no grammars|no word|not allowed"):
        RowGrammar(factory, state(text, output), VOCAB).allowed()
