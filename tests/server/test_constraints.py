"""Constraints reach the engine as token ids, each within the width of the logits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.serving import EOS, byte_level
from tgi.config import Limits
from tgi.errors import ValidationError
from tgi.sampling import SamplingParams
from tgi.server.constraints import constraints, stop_ids
from tgi.server.schemas import GenerateParameters
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Validator

TOKENIZER = Tokenizer(byte_level(), eos_ids=(EOS,))


async def fields(**asked: Any) -> dict[str, Any]:
    return await constraints(GenerateParameters(**asked), TOKENIZER, longest=10, vocab_size=260)


async def test_nothing_asked_is_nothing_done() -> None:
    assert SamplingParams(**await fields()) == SamplingParams()


async def test_a_bad_word_is_bad_at_the_beginning_of_a_text_and_inside_it() -> None:
    plain, spaced = [(await TOKENIZER.encode(text, add_special_tokens=False)) for text in ("no", " no")]

    assert (await fields(bad_words=["no"]))["bad_words"] == (tuple(plain), tuple(spaced))
    assert set((await fields(bad_words=[" no", "no"]))["bad_words"]) == {tuple(plain), tuple(spaced)}  # each once
    assert (await fields(bad_words_ids=[[4, 5], [4, 5]], bad_words=["no"]))["bad_words"][0] == (4, 5)


async def test_a_word_beyond_the_logits_is_refused() -> None:
    with pytest.raises(ValidationError, match="tokens that the model can choose"):
        await constraints(GenerateParameters(bad_words=["no"]), TOKENIZER, longest=10, vocab_size=5)


async def test_what_could_end_a_sequence_is_withheld_while_it_is_too_short() -> None:
    assert (await fields(min_tokens=4, stop_token_ids=[9, 7, 9]))["withheld"] == tuple(sorted((7, 9, EOS)))
    assert (await fields(min_tokens=4, ignore_eos=True))["withheld"] == (EOS,)
    assert (await fields(stop_token_ids=[9]))["withheld"] == ()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (EOS,)),
        ({"stop_token_ids": [7, 7]}, tuple(sorted((7, EOS)))),
        ({"ignore_eos": True}, ()),
        ({"ignore_eos": True, "stop_token_ids": [7]}, (7,)),
    ],
)
def test_stop_ids_are_the_models_and_the_clients(asked: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert stop_ids(GenerateParameters(**asked), (EOS,)) == expected


async def test_the_watermark_is_the_servers() -> None:
    validator = Validator(
        Limits(watermark_gamma=0.25, watermark_delta=4.0), TOKENIZER,
        max_input_tokens=90, max_total_tokens=100, vocab_size=260,
    )  # fmt: skip
    marked = (await validator.validate("a", GenerateParameters(watermark=True))).sampling
    plain = (await validator.validate("a", GenerateParameters(watermark=False))).sampling

    assert (marked.watermark_gamma, marked.watermark_delta) == (0.25, 4.0)
    assert plain == SamplingParams()
