"""What is told about an answer: tokens by the server's count, times by this side's clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tgi.chat.answer import STOPPED, Answer


def chunk(text: str = "", **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}], **more}


def at(*moments: float) -> Any:
    times: Iterator[float] = iter(moments)
    return lambda: next(times)


def test_speed_counts_from_the_first_token() -> None:
    answer = Answer(clock=at(10.0, 10.5, 11.0, 12.5))
    for text in ("a", "b", "c"):
        answer.add(chunk(text))
    answer.add({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    answer.add({"choices": [], "usage": {"completion_tokens": 5}})
    assert answer.text == "abc"
    assert answer.ttft_s == 0.5
    assert answer.tokens_per_s == 2.0
    assert answer.footer() == "5 tokens · 2.0 tokens/s · first token 500 ms · total 2.5 s"
    fields = answer.as_json()
    assert (fields["answer"], fields["tokens"], fields["finish_reason"]) == ("abc", 5, "stop")
    assert fields["duration_s"] == 2.5


def test_without_a_count_of_the_server_the_footer_says_about() -> None:
    answer = Answer(clock=at(0.0, 0.1, 0.2))
    answer.add(chunk("a"))
    answer.add(chunk("b"))
    answer.finish_reason = STOPPED
    assert answer.footer() == "about 2 tokens · 10.0 tokens/s · first token 100 ms · total 200 ms · stopped"


def test_one_token_has_no_speed() -> None:
    answer = Answer(clock=at(0.0, 0.1))
    answer.add(chunk("a"))
    assert answer.tokens_per_s is None
    assert answer.footer() == "about 1 token · first token 100 ms · total 100 ms"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_no_part_of_the_answer(name: str) -> None:
    answer = Answer()
    answer.add({"choices": [{"delta": {name: "hmm", "content": None}}]})
    answer.add(chunk("yes"))
    assert (answer.thoughts, answer.text) == ("hmm", "yes")


@pytest.mark.parametrize(
    "odd", [{}, {"choices": None}, {"choices": [{}]}, {"choices": [{"delta": None}], "usage": None}]
)
def test_chunks_without_text_change_nothing(odd: dict[str, Any]) -> None:
    answer = Answer()
    answer.add(odd)
    assert (answer.text, answer.tokens, answer.ttft_s) == ("", 0, None)
