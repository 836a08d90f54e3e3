"""Conversations survive their file, and nobody else's file is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tgi.chat.conversation import Conversation
from tgi.errors import TgiError


def talk() -> Conversation:
    conversation = Conversation("Be terse.")
    conversation.add("user", "What is é?\nTell me.")
    conversation.add("assistant", "A letter.")
    return conversation


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    path = talk().save(str(tmp_path / "talk.json"), "some-model")
    other = Conversation("other")
    other.add("user", "x")
    assert other.load(str(path)) == 2
    assert other == talk()
    assert json.loads(path.read_text(encoding="utf-8"))["model"] == "some-model"
    other.save(str(path), "m")  # a conversation may be overwritten
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]


def test_a_list_of_messages_is_a_conversation_too(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[{"role": "user", "content": "hi", "name": "x"}]', encoding="utf-8")
    conversation = Conversation()
    assert conversation.load(str(path)) == 1
    assert conversation.messages() == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("content", ["", "{}", "text", '{"messages": [{"role": "robot", "content": "x"}]}', "[1]"])
def test_a_file_that_is_no_conversation_changes_nothing_and_is_not_overwritten(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    conversation = talk()
    for act in (lambda: conversation.load(str(path)), lambda: conversation.save(str(path), "m")):
        with pytest.raises(TgiError) as refused:
            act()
        assert f"`{path}`" in refused.value.message
        assert refused.value.hint
    assert conversation == talk()
    assert path.read_text(encoding="utf-8") == content


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TgiError, match=r"cannot read `\./missing\.json`"):
        Conversation().load("./missing.json")
    with pytest.raises(TgiError, match=r"cannot write `\./missing/x\.json`"):
        Conversation().save("./missing/x.json", "m")


def test_a_question_is_taken_back_with_its_answer() -> None:
    conversation = talk()
    assert conversation.last_question() == "What is é?\nTell me."
    assert conversation.turns == []
    assert conversation.last_question() is None
