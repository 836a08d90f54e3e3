"""Messages in the form that a template expects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tgi.errors import ValidationError
from tgi.server.conversations import last_words, template_messages
from tgi.server.schemas import Message
from tgi.server.templates import Facts

CALL = {"id": "i", "type": "function", "function": {"name": "f", "arguments": '{"x": 5}'}}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
NATIVE = Facts(tool_calls=True)


def shown(facts: Facts, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    return template_messages(msgspec.convert(list(messages), list[Message]), facts)


@pytest.mark.parametrize(
    ("facts", "content", "expected"),
    [
        (Facts(), "a", "a"), (Facts(), PARTS, "ab"), (Facts(content_parts=True), PARTS, PARTS),
        (Facts(content_parts=True), "a", "a"), (Facts(content_parts=True, content_text=False), "a", PARTS[:1]),
        (Facts(), [], ""),
    ],
)  # fmt: skip
def test_content_is_text_or_parts_as_the_template_expects(facts: Facts, content: Any, expected: Any) -> None:
    assert shown(facts, {"role": "user", "content": content}) == [{"role": "user", "content": expected}]


def test_parts_that_are_not_text_are_refused() -> None:
    for facts in (Facts(), Facts(content_parts=True)):
        with pytest.raises(ValidationError, match="parts other than `text`"):
            shown(facts, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})


def test_a_missing_content_is_a_missing_key_unless_the_template_asks_for_none() -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert "content" not in shown(NATIVE, said)[0]
    assert shown(Facts(tool_calls=True, content_null=True), said)[0]["content"] is None


@pytest.mark.parametrize("sent", ['{"x": 5}', {"x": 5}])
@pytest.mark.parametrize(("as_text", "expected"), [(False, {"x": 5}), (True, '{"x": 5}')])
@pytest.mark.parametrize("word", ["arguments", "parameters"])
def test_arguments_are_objects_or_text_as_the_template_expects(
    sent: Any, as_text: bool, expected: Any, word: str
) -> None:
    call = {"id": "i", "function": {"name": "f", word: sent}}
    (message,) = shown(
        Facts(tool_calls=True, argument_text=as_text), {"role": "assistant", "content": "b", "tool_calls": [call]}
    )
    assert message["content"] == "b"
    assert message["tool_calls"][0]["function"]["arguments"] == expected


def test_arguments_that_are_not_json_stay_as_they_are() -> None:
    call = {"id": "i", "function": {"name": "f", "arguments": "{"}}
    assert shown(NATIVE, {"role": "assistant", "tool_calls": [call]})[0]["tool_calls"] == [call]


def test_calls_are_text_for_templates_without_them() -> None:
    text = '[{"id":"i","type":"function","function":{"name":"f","arguments":"{\\"x\\": 5}"}}]'
    alone, beside = shown(
        Facts(),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "b", "tool_calls": [CALL]},
    )
    assert (alone["content"], beside["content"]) == (text, "b\n" + text)


def test_a_result_has_the_name_of_its_tool() -> None:
    messages = shown(
        NATIVE, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "r", "tool_call_id": "i"},
        {"role": "tool", "content": "r", "tool_call_id": "?"}, {"role": "tool", "content": "r", "name": "g"},
        {"role": "user", "content": "r", "name": "Ann"},
    )  # fmt: skip
    assert [message.get("name") for message in messages] == [None, "f", None, "g", None]
    assert messages[1]["tool_call_id"] == "i"


def test_reasoning_reaches_the_template_under_both_its_names() -> None:
    (message,) = shown(Facts(), {"role": "assistant", "content": "a", "reasoning_content": "why"})
    assert (message["reasoning_content"], message["thinking"]) == ("why", "why")


def test_words_are_added_behind_the_last_message() -> None:
    assert last_words([], "\nx") == [{"role": "user", "content": "x"}]
    first, last = {"role": "user", "content": "a"}, {"role": "tool"}
    assert last_words([first, last], "x") == [first, {"role": "tool", "content": "x"}]
    assert last_words([first], "x") == [{"role": "user", "content": "ax"}]
    assert last_words([{"role": "user", "content": PARTS[:1]}], "x")[0]["content"] == [
        PARTS[0],
        {"type": "text", "text": "x"},
    ]
    assert first == {"role": "user", "content": "a"}
