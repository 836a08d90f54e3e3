"""One answer as chunks and as a message: text, calls, and what is held back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.server.serving import byte_level
from tgi.server.inference import Piece
from tgi.server.responses import encode
from tgi.server.routes.choices import Choice
from tgi.server.routes.dialect import Dialect
from tgi.server.tokenizer import Tokenizer
from tgi.server.tool_formats import FORMATS
from tgi.server.tools import ToolPlan

HERMES = next(row for row in FORMATS if row.name == "hermes")
MISTRAL = next(row for row in FORMATS if row.name == "mistral")
TGI, OPENAI = Dialect(first_call=0), Dialect(once=True)
TOOLS = ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}})
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
TWO = CALL + '\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


def plan(row: Any = HERMES, *, forced: bool = False) -> ToolPlan:
    return ToolPlan(tools=TOOLS, forced=forced, parallel=True, prompt=None, row=row)


def pieces(*deltas: str, finish: str = "eos_token", specials: tuple[str, ...] = ()) -> list[Piece]:
    """One token a delta, and the end of the answer; `specials` are tokens whose text is not part of the answer."""
    made = [
        Piece(n, n, text, text in specials, -0.5, (), "" if text in specials else text, None)
        for n, text in enumerate(deltas)
    ]
    return [*made, Piece(len(made), 257, "</s>", True, -0.5, (), "", finish)]


@pytest.fixture
def tokenizer() -> Any:
    made = Tokenizer(byte_level())
    yield made
    made.close()


def chunks(tokens: list[Piece], tools: ToolPlan | None, tokenizer: Tokenizer, **options: Any) -> list[Any]:
    choice = Choice(0, tools, tokenizer, options.pop("dialect", TGI), **{"logprobs": False} | options)
    return [msgspec.json.decode(encode(chunk)) for piece in tokens for chunk in choice.push(piece)]


def message(tokens: list[Piece], tools: ToolPlan | None, tokenizer: Tokenizer) -> Any:
    return msgspec.json.decode(encode(Choice(0, tools, tokenizer, TGI, logprobs=False).whole(tokens)))


def test_without_tools_a_chunk_is_a_token(tokenizer: Tokenizer) -> None:
    found = chunks(pieces("a", "", "b"), None, tokenizer)
    assert [chunk["delta"]["content"] for chunk in found] == ["a", "", "b", ""]
    assert [chunk["finish_reason"] for chunk in found] == [None, None, None, "stop"]


def test_a_call_is_streamed_as_its_name_and_then_its_arguments(tokenizer: Tokenizer) -> None:
    tokens = pieces("Hm", ". <tool", "_call>\n{", '"name": "', 'f", "arguments": {"', 'x": ', "1}", "}\n</tool_call>")
    found = chunks(tokens, plan(), tokenizer)
    assert [chunk["delta"].get("content") for chunk in found] == ["Hm", ". ", None, None, None, None]
    calls = [chunk["delta"]["tool_calls"][0] for chunk in found[2:]]
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": "{"}, {"name": None, "arguments": '"'}, {"name": None, "arguments": 'x": '},
        {"name": None, "arguments": "1}"},
    ]  # fmt: skip
    assert {(call["index"], call["type"]) for call in calls} == {(0, "function")}
    assert {call["id"] for call in calls} == {"0"}
    assert [chunk["finish_reason"] for chunk in found] == [None] * 5 + ["tool_calls"]
    assert all(chunk["delta"]["role"] == "assistant" for chunk in found)
    assert all("content" not in chunk["delta"] for chunk in found[2:])


def test_openais_sdks_are_told_once_what_they_would_join(tokenizer: Tokenizer) -> None:
    found = chunks(pieces("Hm. ", *TWO), plan(), tokenizer, dialect=OPENAI)
    assert [chunk["delta"].get("role") for chunk in found] == ["assistant", *[None] * (len(found) - 1)]
    calls = [chunk["delta"]["tool_calls"][0] for chunk in found[1:]]
    assert [len(call["id"]) for call in calls if "id" in call] == [9, 9]
    assert [call["function"]["name"] for call in calls if "id" in call] == ["f", "g"]


def test_several_calls_are_numbered_and_have_ids_of_their_own(tokenizer: Tokenizer) -> None:
    found = chunks(pieces(*TWO), plan(), tokenizer)
    calls = [chunk["delta"]["tool_calls"][0] for chunk in found]
    begun = [call for call in calls if call["function"]["name"] is not None]
    assert [(call["index"], call["function"]["name"]) for call in begun] == [(0, "f"), (1, "g")]
    assert len({call["id"] for call in begun}) == 2
    told = message(pieces(*TWO), plan(), tokenizer)
    assert [call["function"] for call in told["message"]["tool_calls"]] == [
        {"description": None, "name": "f", "arguments": '{"x":1}'},
        {"description": None, "name": "g", "arguments": "{}"},
    ]  # fmt: skip
    assert told["finish_reason"] == "tool_calls"
    assert "content" not in told["message"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_content_stays_beside_calls(tokenizer: Tokenizer, size: int) -> None:
    text = "Let me see. " + CALL
    told = message(pieces(*(text[at : at + size] for at in range(0, len(text), size))), plan(), tokenizer)
    assert told["message"]["content"] == "Let me see. "
    assert [call["function"]["arguments"] for call in told["message"]["tool_calls"]] == ['{"x":1}']


def test_text_alone_is_a_message_and_shows_what_was_held_back(tokenizer: Tokenizer) -> None:
    told = message(pieces("a <", "tool_c"), plan(), tokenizer)
    assert (told["message"], told["finish_reason"]) == ({"role": "assistant", "content": "a <tool_c"}, "stop")
    found = chunks(pieces("a <", "tool_c"), plan(), tokenizer)
    assert [chunk["delta"]["content"] for chunk in found] == ["a ", "<tool_c"]


@pytest.mark.parametrize("length", range(1, 9))
def test_a_call_cut_by_its_length_ends_with_length(tokenizer: Tokenizer, length: int) -> None:
    made = pieces(*CALL[: CALL.index('{"x"') + length])[:-1]
    made[-1] = replace(made[-1], finish="length")
    told = message(made, plan(forced=True), tokenizer)
    assert told["finish_reason"] == "length"
    assert chunks(made, plan(forced=True), tokenizer)[-1]["finish_reason"] == "length"
    (call,) = told["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"x": 1}'[:length].replace(" ", "")


def test_a_call_cut_before_its_name_is_no_call(tokenizer: Tokenizer) -> None:
    made = pieces(*CALL[:20])[:-1]
    made[-1] = Piece(0, 0, "x", False, -0.5, (), "", "length")
    told = message(made, plan(forced=True), tokenizer)
    assert (told["message"], told["finish_reason"]) == ({"role": "assistant", "content": ""}, "length")


def test_special_tokens_of_the_syntax_are_read_and_others_are_not(tokenizer: Tokenizer) -> None:
    syntax = pieces("</s>", "[TOOL_CALLS]", ' [{"name": "g", "arguments": {}}]', specials=("</s>", "[TOOL_CALLS]"))
    told = message(syntax, plan(MISTRAL), tokenizer)
    assert told["message"]["tool_calls"][0]["function"]["name"] == "g"
    assert "content" not in told["message"]


def test_log_probabilities_of_every_token_are_shown_once(tokenizer: Tokenizer) -> None:
    made = pieces(*("Hm. " + TWO))
    found = chunks(made, plan(), tokenizer, logprobs=True)
    shown = [one["token"] for chunk in found for one in chunk["logprobs"]["content"]]
    assert shown == [piece.text for piece in made]
    told = msgspec.json.decode(encode(Choice(0, plan(), tokenizer, TGI, logprobs=True).whole(made)))
    assert [one["token"] for one in told["logprobs"]["content"]] == shown
