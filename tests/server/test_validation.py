"""TGI's rules, in TGI's order, with TGI's words (spec/http-api.md sections 4 to 6)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.server.serving import EOS, byte_level
from tgi.config import Limits
from tgi.errors import ValidationError
from tgi.server.detokenizer import StopRule
from tgi.server.schemas import GenerateParameters
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Prepared, Validator

TOKENIZER = Tokenizer(byte_level(), eos_ids=(EOS,))

# Each row breaks its own rule and every later one that it can: the first broken rule must be the one reported.
RULES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2, "repetition_penalty": 0.0}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0, "repetition_penalty": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": -1.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0, "frequency_penalty": 3.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": -2.1, "top_p": 0.0}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"presence_penalty": 2.1, "top_p": 0.0}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0, "typical_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.1}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0, "top_k": 0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0, "max_new_tokens": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0, "stop": list("abcde")}, "`max_new_tokens` must be strictly positive"),
    (
        {"stop": list("abcde"), "seed": 1, "best_of": 2, "do_sample": True},
        "`stop` supports up to 4 stop sequences. Given: 5",
    ),
    (
        {"seed": 1, "best_of": 2, "do_sample": True, "top_n_tokens": 6},
        "`seed` must not be set when `best_of` > 1",
    ),
    ({"top_n_tokens": 6, "stop": [""]}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"stop": [""], "logit_bias": {"x": 1.0}}, "`stop` sequences must have 1 to 256 characters"),
    ({"stop": ["a" * 257]}, "`stop` sequences must have 1 to 256 characters"),
    ({"logit_bias": {"x": 1.0}, "truncate": 0}, "`logit_bias` keys must be token ids"),
    ({"logit_bias": {"-1": 1.0}}, "`logit_bias` keys must be token ids"),
    ({"logit_bias": {"260": 1.0}}, "`logit_bias` token ids must be >= 0 and < 260"),
    ({"logit_bias": {"1": 101.0}}, "`logit_bias` must be >= -100.0 and <= 100.0"),
    (
        {"logit_bias": {str(key): 1.0 for key in range(301)}},
        "`logit_bias` supports up to 300 tokens. Given: 301",
    ),
    ({"min_p": 1.1, "no_repeat_ngram_size": 65}, "`min_p` must be >= 0.0 and <= 1.0"),
    ({"min_p": -0.1}, "`min_p` must be >= 0.0 and <= 1.0"),
    (
        {"no_repeat_ngram_size": 65, "bad_words": [""]},
        "`no_repeat_ngram_size` must be >= 0 and <= 64. Given: 65",
    ),
    ({"bad_words": [""] * 301}, "`bad_words` supports up to 300 entries. Given: 301"),
    ({"bad_words_ids": [[]] * 301}, "`bad_words_ids` supports up to 300 entries. Given: 301"),
    ({"stop_token_ids": [1] * 301, "bad_words": [""]}, "`stop_token_ids` supports up to 300 entries. Given: 301"),
    ({"bad_words": [""], "bad_words_ids": [[]]}, "`bad_words` must have 1 to 256 characters"),
    ({"bad_words": ["a" * 257]}, "`bad_words` must have 1 to 256 characters"),
    ({"bad_words_ids": [[]], "allowed_token_ids": []}, "`bad_words_ids` must have 1 to 256 tokens"),
    ({"bad_words_ids": [[1] * 257]}, "`bad_words_ids` must have 1 to 256 tokens"),
    ({"allowed_token_ids": [], "stop_token_ids": [260]}, "`allowed_token_ids` cannot be empty"),
    ({"bad_words_ids": [[1, 260]]}, "`bad_words_ids` token ids must be >= 0 and < 260"),
    ({"allowed_token_ids": [1, 2**31]}, "`allowed_token_ids` token ids must be >= 0 and < 260"),
    ({"stop_token_ids": [2**32 - 1], "truncate": 0}, "`stop_token_ids` token ids must be >= 0 and < 260"),
    (
        {"ignore_eos": True, "grammar": {}, "truncate": 0},
        "`ignore_eos` cannot be used with a grammar: only the end may follow a complete output",
    ),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 90. Given: 0"),
    ({"truncate": 91, "max_new_tokens": 200}, "`truncate` must be strictly positive and less than 90. Given: 91"),
    (
        {"max_new_tokens": 96, "grammar": {}},
        "`inputs` tokens + `max_new_tokens` must be <= 100. Given: 5 `inputs` tokens and 96 `max_new_tokens`",
    ),
    (
        {"max_new_tokens": 5000},
        "`inputs` tokens + `max_new_tokens` must be <= 100. Given: 5 `inputs` tokens and 1024 `max_new_tokens`",
    ),
    ({"grammar": {"type": "json"}, "watermark": True}, "grammar is not supported"),
    ({"min_tokens": 3, "max_new_tokens": 2}, "`min_tokens` must be <= `max_new_tokens`. Given: 3 and 2"),
    ({"min_tokens": 96}, "`min_tokens` must be <= `max_new_tokens`. Given: 96 and 95"),
    ({"adapter_id": "x"}, "`adapter_id` is not supported: no adapter is loaded"),
]


def validator(**changes: Any) -> Validator:
    settings: dict[str, Any] = {"max_input_tokens": 90, "max_total_tokens": 100, "vocab_size": 260}
    return Validator(Limits(), TOKENIZER, **(settings | {"draw_seed": lambda: 77} | changes))


async def prepare(inputs: str = "abcde", **parameters: Any) -> Prepared:
    return await validator().validate(inputs, GenerateParameters(**parameters))


@pytest.mark.parametrize(("parameters", "message"), RULES, ids=[message[:60] for _, message in RULES])
async def test_the_first_broken_rule_is_reported(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        await prepare(**parameters)
    assert str(refused.value) == f"Input validation error: {message}"
    assert (refused.value.status, refused.value.error_type) == (422, "validation")


async def test_an_empty_prompt_is_refused_after_the_parameters_and_before_truncation() -> None:
    with pytest.raises(ValidationError, match="`inputs` cannot be empty"):
        await prepare("", truncate=0)
    with pytest.raises(ValidationError, match="`top_k`"):
        await prepare("", top_k=0)


async def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        await prepare("a" * 91)
    assert str(refused.value).endswith("`inputs` must have less than 90 tokens. Given: 91")
    assert (await prepare("a" * 90)).max_new_tokens == 10
    with pytest.raises(ValidationError) as refused:
        await prepare("a" * 101)
    assert "Given: 101 `inputs` tokens and 0 `max_new_tokens`" in str(refused.value)


def test_streams_refuse_several_sequences_and_prompt_details() -> None:
    for best_of in (0, 2):
        with pytest.raises(ValidationError, match="`best_of` != 1 is not supported when streaming tokens"):
            validator().check_stream(GenerateParameters(best_of=best_of, decoder_input_details=True))
    with pytest.raises(ValidationError, match="`decoder_input_details` == true is not supported when streaming tokens"):
        validator().check_stream(GenerateParameters(best_of=1, decoder_input_details=True))
    validator().check_stream(GenerateParameters())


def test_the_number_of_sequences_is_limited() -> None:
    with pytest.raises(ValidationError, match=r"`best_of` must be > 0 and <= 2\. Given: 3"):
        validator().check_best_of(3)
    only_one = Validator(Limits(max_best_of=1), TOKENIZER, max_input_tokens=9, max_total_tokens=10, vocab_size=260)
    with pytest.raises(ValidationError, match="`best_of` != 1 is not allowed for this endpoint"):
        only_one.check_best_of(2)
    for n in (0, 17, 10**9):
        with pytest.raises(ValidationError, match=f"`n` must be > 0 and <= 16. Given: {n}"):
            validator().check_choices(n)


@pytest.mark.parametrize(
    ("asked", "room", "given"), [(None, 95, 95), (10, 10, 10), (95, 95, 95)], ids=["default", "asked", "all"]
)
async def test_the_answer_may_fill_the_context(asked: int | None, room: int, given: int) -> None:
    assert (await prepare(max_new_tokens=asked)).max_new_tokens == given


async def test_an_over_large_answer_passes_when_tgis_first_chunk_fits() -> None:
    wide = validator(max_input_tokens=1999, max_total_tokens=2000)
    prepared = await wide.validate("abcde", GenerateParameters(max_new_tokens=100_000))
    assert prepared.max_new_tokens == 1995


async def test_truncation_keeps_the_last_tokens() -> None:
    prepared = await prepare("abcde" * 100, truncate=3, max_new_tokens=1)
    assert bytes(prepared.prompt_tokens()) == b"cde"
    assert (prepared.input_length, prepared.characters) == (3, 500)


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [
        ({}, False), ({"do_sample": True}, True), ({"temperature": 1.0}, False), ({"temperature": 0.5}, True),
        ({"top_k": 5}, True), ({"top_p": 0.5}, True), ({"top_p": 1.0}, False), ({"typical_p": 0.5}, True),
        ({"typical_p": 1.0}, False), ({"min_p": 0.1}, True), ({"min_p": 0.0}, False),
        ({"seed": 5}, False), ({"repetition_penalty": 1.5}, False),
    ],
)  # fmt: skip
async def test_what_makes_a_request_sample(parameters: dict[str, Any], samples: bool) -> None:
    prepared = await prepare(**parameters)
    assert prepared.sampling.do_sample is samples
    assert prepared.seed == ((parameters.get("seed", 77)) if samples else None)


async def test_temperature_one_satisfies_best_of() -> None:
    assert not (await prepare(best_of=2, temperature=1.0)).sampling.do_sample


async def test_a_seed_of_64_bits_is_drawn_for_each_request() -> None:
    drawing = Validator(Limits(), TOKENIZER, max_input_tokens=90, max_total_tokens=100, vocab_size=260)
    seeds = {(await drawing.validate("a", GenerateParameters(do_sample=True))).seed for _ in range(64)}
    assert len(seeds) == 64
    assert max(seed or 0 for seed in seeds) > 2**56


async def test_a_given_seed_is_kept_to_the_last_bit() -> None:
    prepared = await prepare(seed=2**64 - 1, do_sample=True)
    request = prepared.engine_request(1)
    assert (prepared.seed, request.sampling.seed) == (2**64 - 1, 2**64 - 1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=type(request)) == request


async def test_everything_reaches_the_engine() -> None:
    prepared = await prepare(
        temperature=0.5, top_k=3, top_p=0.9, typical_p=0.8, repetition_penalty=1.1, frequency_penalty=0.2,
        presence_penalty=0.3, logit_bias={"7": -1.5}, min_p=0.1, no_repeat_ngram_size=3, watermark=True,
        top_n_tokens=2, decoder_input_details=True, stop=["x"],
    )  # fmt: skip
    request = prepared.engine_request(9)
    sampling = request.sampling
    assert (request.id, request.top_tokens, request.prompt_logprobs, request.stop_ids) == (9, 2, True, (EOS,))
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.typical_p) == (0.5, 3, 0.9, 0.8)
    assert (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (1.1, 0.2, 0.3)
    assert sampling.logit_bias == {7: -1.5}
    assert (sampling.min_p, sampling.no_repeat_ngram_size) == (0.1, 3)
    assert (sampling.watermark_gamma, sampling.watermark_delta) == (0.5, 2.0)
    assert (prepared.stops, prepared.stop_rule) == (("x",), StopRule.AT_END)


async def test_the_older_name_of_stop_is_understood() -> None:
    assert (await prepare(stop_sequences=["a", "b"])).stops == ("a", "b")


async def test_sequences_of_one_request_differ_in_their_randomness() -> None:
    drawn = iter(range(100, 200))
    several = validator(draw_seed=lambda: next(drawn))
    first = await several.validate("a", GenerateParameters(do_sample=True))
    assert (first.seed, several.reseed(first).seed, several.reseed(first).seed) == (100, 101, 102)
    assert [several.choice(first, index).sampling.sequence_index for index in range(3)] == [0, 1, 2]
    assert several.choice(first, 2).seed == 100


async def test_a_salt_reaches_the_engine_and_keeps_prefixes_apart() -> None:
    assert (await prepare()).engine_request(1).cache_salt == ""
    assert (await prepare(cache_salt="mine ~")).engine_request(1).cache_salt == "mine ~"


@pytest.mark.parametrize("salt", ["", "x" * 257, "é", "a\n", "\x00", "\x7f"])
async def test_a_salt_that_is_none_is_refused(salt: str) -> None:
    with pytest.raises(ValidationError, match="`cache_salt` must have 1 to 256 printable ASCII characters"):
        await prepare(cache_salt=salt)
