"""Prompts of a completions request, told apart by their shape, with each token's place in the text."""

from __future__ import annotations

import pytest

from tests.server.serving import EOS, byte_level, sentence_piece
from tgi.server.routes.prompts import _place, split
from tgi.server.schemas import CompletionRequest
from tgi.server.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("ab", ["ab"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_a_prompt_of_any_shape_is_a_list_of_prompts(
    prompt: str | list[str | int | list[int]], expected: list[str | list[int]]
) -> None:
    assert split(CompletionRequest(prompt=prompt)) == expected


def test_every_token_has_its_place_in_the_text() -> None:
    tokens, offsets = _place(Tokenizer(byte_level()), [*"aé".encode(), EOS, ord("b")], "aé</s>b")
    assert (tokens, offsets) == (["a", "", "é", "</s>", "b"], [0, 1, 1, 2, 6])


def test_tokens_that_the_text_does_not_show_take_no_room() -> None:
    tokens, offsets = _place(Tokenizer(sentence_piece()), sentence_piece().encode("a i").ids, "a i")
    assert (tokens, offsets) == (["a", " ", "i"], [0, 1, 2])
    tokens, offsets = _place(Tokenizer(byte_level()), [EOS, ord("a")], "a")
    assert (tokens, offsets) == (["</s>", "a"], [0, 0])


def test_places_stay_inside_a_text_that_its_tokenizer_changes() -> None:
    assert _place(Tokenizer(byte_level()), list(b"hello"), "HEL") == (list("hello"), [0, 1, 2, 3, 3])
