"""OpenAI's words for TGI's things."""

from __future__ import annotations

import pytest

from tests.server.serving import answering, byte_level, serve
from tgi.server.detokenizer import StopRule
from tgi.server.routes.openai import FINISH, Envelope, parameters, stop_rule, wants_usage
from tgi.server.schemas import Constraints, OpenAiRequest, StreamOptions

USER = [{"role": "user", "content": "hello"}]


def test_every_finish_reason_has_a_name() -> None:
    assert FINISH == {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


def test_an_envelope_has_one_id() -> None:
    envelope = Envelope("tiny", "cmpl")
    assert envelope.id == envelope.id
    assert envelope.id.startswith("cmpl-")
    assert envelope.id != Envelope("tiny", "cmpl").id


@pytest.mark.parametrize(("stop", "stops"), [("x", ["x"]), (["x", "y"], ["x", "y"]), (None, None)])
def test_one_stop_sequence_may_come_alone(stop: str | list[str] | None, stops: list[str] | None) -> None:
    assert parameters(OpenAiRequest(stop=stop)).stop == stops


def test_the_newer_name_of_the_limit_wins() -> None:
    assert parameters(OpenAiRequest(max_tokens=1, max_completion_tokens=2)).max_new_tokens == 2
    assert parameters(OpenAiRequest(max_tokens=1)).max_new_tokens == 1


def test_stop_sequences_are_left_out_unless_asked_for() -> None:
    assert stop_rule(OpenAiRequest()) is StopRule.STRIP
    assert stop_rule(OpenAiRequest(include_stop_str_in_output=True)) is StopRule.INCLUDE


def test_usage_is_sent_when_asked_for() -> None:
    assert wants_usage(OpenAiRequest(stream_options=StreamOptions(include_usage=True)))
    assert not wants_usage(OpenAiRequest(stream_options=StreamOptions()))
    assert not wants_usage(OpenAiRequest())


CONSTRAINTS = {
    "min_p": 0.1, "no_repeat_ngram_size": 3, "bad_words": ["no"], "bad_words_ids": [[4, 5]], "watermark": True,
    "allowed_token_ids": [1, 2], "min_tokens": 2, "ignore_eos": True, "stop_token_ids": [7],
}  # fmt: skip


def test_every_constraint_of_the_native_routes_is_understood() -> None:
    asked = parameters(OpenAiRequest(**CONSTRAINTS, top_k=5, typical_p=0.9, repetition_penalty=1.2))
    assert set(CONSTRAINTS) == set(Constraints.__struct_fields__)
    assert {name: getattr(asked, name) for name in CONSTRAINTS} == CONSTRAINTS
    assert (asked.top_k, asked.typical_p, asked.repetition_penalty) == (5, 0.9, 1.2)


def test_parameters_of_sampling_mean_nothing_where_the_choice_is_greedy() -> None:
    asked = parameters(OpenAiRequest(temperature=0.0, min_p=0.1, top_k=5, typical_p=0.9, min_tokens=2))
    assert (asked.do_sample, asked.min_p, asked.top_k, asked.typical_p) == (False, None, None, None)
    assert asked.min_tokens == 2


@pytest.mark.parametrize(("top_k", "expected"), [(0, None), (-1, None), (-2, -2), (1, 1), (None, None)])
def test_a_top_k_of_zero_or_minus_one_is_off(top_k: int | None, expected: int | None) -> None:
    assert parameters(OpenAiRequest(top_k=top_k)).top_k == expected


async def test_a_stop_token_of_the_clients_own_ends_the_answer_and_is_left_out() -> None:
    stop = byte_level().encode("E", add_special_tokens=False).ids
    request = {"messages": USER, "stop_token_ids": stop, "max_tokens": 9}
    async with serve(answering("abEc")) as server:
        choice = (await server.post("/v1/chat/completions", request)).json["choices"][0]
        native = (await server.post("/generate", {"inputs": "x", "parameters": {"stop_token_ids": stop}})).json
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "stop")
    assert native == {"generated_text": "abE"}  # TGI keeps what ends a text
