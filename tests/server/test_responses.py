"""Answers are compact JSON that every parser reads."""

from __future__ import annotations

import math

from tgi.server.responses import GenerateResponse, StreamResponse, Token, encode, error_body


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


def test_errors_have_two_keys() -> None:
    assert error_body("a", "b") == b'{"error":"a","error_type":"b"}'
