"""The conversation at the terminal, without a terminal: commands, failures, and what stays afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.chat.fake_chat_server import CUT, HANG, FakeChatServer
from tgi.chat.answer import Answer
from tgi.chat.client import ChatServer
from tgi.chat.conversation import Conversation
from tgi.chat.session import COMMANDS, Chat, PlainView, Session, SilentView
from tgi.errors import TgiError


def chat(fake: FakeChatServer, **parameters: Any) -> Chat:
    view = lambda: contextlib.nullcontext(SilentView())  # noqa: E731
    return Chat(ChatServer(fake.url), "fake-model", parameters, Conversation("Be terse."), view)


class Typist:
    """Types the given lines; an exception is raised instead of a line."""

    def __init__(self, *lines: str | BaseException, typed: bool = False) -> None:
        self._lines = iter(lines)
        self._typed = typed
        self.left = len(lines)

    def question(self) -> str:
        line = next(self._lines, EOFError())
        self.left -= 1
        if isinstance(line, BaseException):
            raise line
        return line

    def typed(self) -> bool:
        return self._typed


class Talk:
    """One session, and what was said in it."""

    def __init__(self, chat: Chat, *lines: str | BaseException, typed: bool = False) -> None:
        self.answers: list[Answer] = []
        self.errors: list[TgiError] = []
        self.typist = Typist(*lines, typed=typed)
        out = io.StringIO()
        Session(
            chat, self.typist, Console(file=out, width=200), report=self.errors.append, tell=self.answers.append
        ).run()
        self.said = out.getvalue()


def test_each_request_carries_the_conversation_and_the_parameters() -> None:
    with FakeChatServer(["one"], ["two"]) as fake:
        talk = Talk(chat(fake, temperature=0.5), "first", "second", "/exit", "never")
    assert [answer.text for answer in talk.answers] == ["one", "two"]
    assert fake.requests[1]["messages"] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "second"},
    ]
    assert fake.requests[0]["temperature"] == 0.5
    assert fake.requests[0]["stream_options"] == {"include_usage": True}
    assert talk.typist.left == 1


def test_a_lost_connection_keeps_what_came_and_the_conversation_goes_on() -> None:
    with FakeChatServer(["half", CUT], ["whole"]) as fake:
        talk = Talk(chat(fake), "first", "second")
    assert [answer.text for answer in talk.answers] == ["half", "whole"]
    assert talk.answers[0].footer().endswith("connection lost")
    assert "lost before the answer was complete" in talk.errors[0].message
    assert [m["content"] for m in fake.requests[1]["messages"]] == ["Be terse.", "first", "half", "second"]


def test_a_refused_question_leaves_the_conversation_and_can_be_retried() -> None:
    with FakeChatServer((429, {"error": "Model is overloaded"}), ["now"], ["again"]) as fake:
        talk = Talk(chat(fake), "question", "/retry", "/retry")
    assert "overloaded" in talk.errors[0].message
    assert [answer.text for answer in talk.answers] == ["now", "again"]
    assert all([m["content"] for m in r["messages"]] == ["Be terse.", "question"] for r in fake.requests)


def test_a_question_without_an_answer_leaves_no_trace_in_the_next_one() -> None:
    with FakeChatServer((422, {"error": "too long"}), ["fine"]) as fake:
        Talk(chat(fake), "refused", "another")
    assert [m["content"] for m in fake.requests[1]["messages"]] == ["Be terse.", "another"]


async def test_a_stopped_answer_stays_in_the_conversation() -> None:
    with FakeChatServer(["half", HANG]) as fake:
        talk = chat(fake)
        arrived = asyncio.Event()

        class Watch(SilentView):
            def show(self, text: str, thoughts: str = "") -> None:
                if text:
                    arrived.set()

        talk.view = lambda: contextlib.nullcontext(Watch())
        asking = asyncio.create_task(talk.ask("question"))
        await arrived.wait()
        asking.cancel()
        answer, problem = await asking
    assert (answer.text, answer.finish_reason, problem) == ("half", "stopped", None)
    assert [turn.content for turn in talk.conversation.turns] == ["question", "half"]


def test_commands_change_the_conversation(tmp_path: Path) -> None:
    path = str(tmp_path / "talk.json")
    with FakeChatServer(["one"]) as fake:
        the_chat = chat(fake)
        talk = Talk(
            the_chat, "first", f"/save {path}", "/reset", "/system Be verbose.", "/system", f"/load {path}", "/system",
            "/system -", "/system", "/help",
        )  # fmt: skip
    lines = talk.said.splitlines()
    assert lines[0].startswith("saved 2 messages to ")
    assert lines[1] == "conversation forgotten, system prompt kept"
    assert lines[2:4] == ["system prompt set", "system prompt: Be verbose."]
    assert lines[4].startswith("loaded 2 messages")
    assert lines[5:8] == ["system prompt: Be terse.", "system prompt removed", "no system prompt"]
    assert all(any(line.startswith(name) for line in lines[8:]) for name in COMMANDS)
    assert [turn.content for turn in the_chat.conversation.turns] == ["first", "one"]
    assert talk.errors == []


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/savve x", "unknown command `/savve`", "did you mean `/save`?"),
        ("/zzzz", "unknown command `/zzzz`", "see `/help`"),
        ("/save", "`/save` needs a file", "for example `/save talk.json`"),
        ("/load ./missing.json", "cannot read `./missing.json`: no such file or directory", "check the path"),
        ("/retry", "nothing was asked yet", "type a question"),
    ],
)
def test_a_mistake_is_named_and_ends_nothing(line: str, message: str, hint: str) -> None:
    with FakeChatServer(["fine"]) as fake:
        talk = Talk(chat(fake), line, "question")
    assert talk.errors[0].message == message
    assert (talk.errors[0].hint or "").startswith(hint)
    assert [answer.text for answer in talk.answers] == ["fine"]


def test_two_slashes_begin_a_question_with_one() -> None:
    with FakeChatServer(["fine"]) as fake:
        Talk(chat(fake), "//etc/passwd")
    assert fake.requests[0]["messages"][-1]["content"] == "/etc/passwd"


@pytest.mark.parametrize(
    ("lines", "typed", "left"),
    [
        ((KeyboardInterrupt(), KeyboardInterrupt(), "never"), False, 1),  # twice at an empty prompt: leave
        ((KeyboardInterrupt(), "/help", KeyboardInterrupt(), "/exit", "never"), False, 1),  # not in a row: stay
        ((KeyboardInterrupt(), KeyboardInterrupt(), "/exit", "never"), True, 1),  # only took back what was typed
    ],
)
def test_interrupts_leave_only_twice_at_an_empty_prompt(
    lines: tuple[str | BaseException, ...], typed: bool, left: int
) -> None:
    with FakeChatServer(["fine"]) as fake:
        assert Talk(chat(fake), *lines, typed=typed).typist.left == left


@pytest.mark.parametrize(("escape", "shown"), [(True, "a]b\n"), (False, "a\x1b]b\n")])
def test_pipes_get_the_text_as_it_is_and_terminals_without_control_characters(
    escape: bool, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainView(escape=escape)
    view.show("a\x1b]")
    view.finish("a\x1b]b")
    assert capsys.readouterr().out == shown
