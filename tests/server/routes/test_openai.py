"""OpenAI's words for TGI's things."""

from __future__ import annotations

import pytest

from tgi.server.detokenizer import StopRule
from tgi.server.routes.openai import FINISH, Envelope, parameters, stop_rule, wants_usage
from tgi.server.schemas import OpenAiRequest, StreamOptions


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
