"""What the old client's types accept, refuse and become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tgi import types
from tgi.errors import ValidationError


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"top_k": 0}, "`top_k` must be strictly positive"), ({"best_of": 0}, "`best_of` must be strictly positive"),
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": -1.0}, "`repetition_penalty` must be strictly positive"),
        ({"truncate": 0}, "`truncate` must be strictly positive"),
        ({"top_n_tokens": 0}, "`top_n_tokens` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"seed": -1}, "`seed` must be positive"),
        ({"best_of": 2, "seed": 1}, "`seed` must not be set when `best_of` is > 1"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ],
)  # fmt: skip
def test_parameters_that_no_server_accepts_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        types.Parameters(**wrong)
    assert str(refusal.value) == told


def test_parameters_that_servers_accept_are_kept() -> None:
    given = types.Parameters(best_of=2, top_k=5, stop=["a"])
    assert (given.best_of, given.max_new_tokens, given.stop, given.details) == (2, 20, ["a"], False)


def test_a_request_needs_a_prompt_and_streams_one_sequence() -> None:
    with pytest.raises(ValidationError, match="`inputs` cannot be empty"):
        types.Request(inputs="")
    with pytest.raises(ValidationError, match="is not supported when `stream` == True"):
        types.Request(inputs="x", stream=True, parameters=types.Parameters(best_of=2, top_k=2))


def test_a_grammar_needs_a_value() -> None:
    with pytest.raises(ValidationError, match="`value` cannot be empty for `regex` grammar"):
        types.Grammar(type=types.GrammarType.Regex, value="")


def test_values_are_plain_data_when_asked() -> None:
    message = types.Message(role="user", content="hi")
    plain = {"role": "user", "content": "hi", "name": None, "tool_calls": None}
    assert message.dict() == message.model_dump() == json.loads(message.json()) == plain
    assert json.loads(message.model_dump_json()) == plain


def test_what_a_server_adds_later_is_ignored() -> None:
    event = types.read(types.StreamResponse, {"index": 1, "token": {"id": 3, "text": "a", "new": True}, "more": []})
    assert (event.token.id, event.token.special, event.details) == (3, False, None)
    assert types.FinishReason("eos_token") is types.FinishReason.EndOfSequenceToken
