"""Answers are compact JSON that every parser reads."""

from __future__ import annotations

import math

from tgi.server.responses import GenerateResponse, StreamResponse, Token, encode, encode_array, error_body


def test_numbers_json_has_no_word_for_become_null() -> None:
    assert encode([math.nan, math.inf, -math.inf, 2**64 - 1]) == b"[null,null,null,18446744073709551615]"


def test_absent_keys_are_absent_and_empty_ones_are_null() -> None:
    assert encode(GenerateResponse(generated_text="")) == b'{"generated_text":""}'
    event = StreamResponse(index=1, token=Token(5, "\n\u2028é", -1.0, False))
    assert (
        encode(event)
        == (
            '{"index":1,"token":{"id":5,"text":"\\n\u2028é","logprob":-1.0,"special":false},'
            '"generated_text":null,"details":null}'
        ).encode()
    )


async def test_an_array_of_any_length_is_one_array() -> None:
    for length in (0, 1, 9_999, 10_000, 25_001):
        assert await encode_array([*range(length)]) == encode(list(range(length)))


def test_errors_have_two_keys() -> None:
    assert error_body("a", "b") == b'{"error":"a","error_type":"b"}'
