"""The conversation at the terminal: questions, commands, answers, and what Ctrl-C means."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console

from tgi.chat.answer import LOST, STOPPED, Answer
from tgi.chat.client import ChatServer, ConnectionLost, Refused
from tgi.chat.conversation import Conversation
from tgi.chat.markdown import MarkdownStream, printable
from tgi.errors import TgiError

FRAME_S = 0.08
COMMANDS = {
    "/system": ("[TEXT]", "show the system prompt, or set it; `/system -` removes it"),
    "/reset": ("", "forget the conversation, keep the system prompt"),
    "/retry": ("", "ask the last question again"),
    "/save": ("FILE", "write the conversation to a JSON file"),
    "/load": ("FILE", "go on with a saved conversation"),
    "/help": ("", "show this"),
    "/exit": ("", "leave (also /quit and Ctrl-D)"),
}
_OTHER_NAMES = {"/quit": "/exit", "/bye": "/exit", "/clear": "/reset", "/?": "/help"}
_KEYS = """\
Ctrl-C stops an answer; at an empty prompt, twice, it leaves. Alt-Enter or a
backslash at a line's end begins a new line; \"\"\" begins and ends a longer text.
A question that begins with a slash is typed with two."""


class View(Protocol):
    """Where an answer is shown while it comes."""

    def show(self, text: str, thoughts: str = "") -> None:
        """All of it so far."""

    def finish(self, text: str) -> None:
        """All there will be."""


class PlainView:
    """Only the text, each piece once: for pipes and terminals that cannot move the cursor."""

    def __init__(self, *, escape: bool) -> None:
        self._escape = escape  # a terminal would obey control characters; a file keeps them
        self._printed = 0

    def show(self, text: str, thoughts: str = "") -> None:
        """Print what is new."""
        new = text[self._printed :]
        self._printed = len(text)
        if new:
            sys.stdout.write(printable(new) if self._escape else new)
            sys.stdout.flush()

    def finish(self, text: str) -> None:
        """The rest, and the end of the last line."""
        self.show(text)
        if text and not text.endswith("\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()


class SilentView:
    """Nothing: the answer is printed as JSON when it is complete."""

    def show(self, text: str, thoughts: str = "") -> None:
        """Nothing."""

    def finish(self, text: str) -> None:
        """Nothing."""


class Asker(Protocol):
    """What `Session` needs of `tgi.chat.prompt.Prompt`."""

    def question(self) -> str:
        """What the user typed."""

    def typed(self) -> bool:
        """Whether Ctrl-C took back something."""


@dataclass(slots=True)
class Chat:
    """A conversation with one model of one server, without a user."""

    server: ChatServer
    model: str
    parameters: Mapping[str, Any]  # of every request: `temperature`, `max_tokens`, ...
    conversation: Conversation
    view: Callable[[], contextlib.AbstractContextManager[View]]

    async def ask(self, question: str) -> tuple[Answer, TgiError | None]:
        """Put a question and show its answer. A cancellation (Ctrl-C) ends the answer, and is not passed on.

        Returns: what came, and what went wrong. Without any text the question is taken back; otherwise both stay in
        the conversation, so that it can go on.
        """
        self.conversation.add("user", question)
        body = {
            **self.parameters, "model": self.model, "messages": self.conversation.messages(), "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        problem: TgiError | None = None
        with self.view() as view:
            answer = Answer()  # its clock starts here
            drawing = asyncio.create_task(_draw(view, answer))
            try:
                async with contextlib.aclosing(self.server.stream(body)) as chunks:
                    async for chunk in chunks:
                        answer.add(chunk)
                problem = _empty(answer)
            except asyncio.CancelledError:
                answer.finish_reason = STOPPED
            except TgiError as error:
                problem = error
            finally:
                drawing.cancel()
            if problem is not None and answer.text:
                answer.finish_reason = LOST if isinstance(problem, ConnectionLost) else "error"
            view.finish(answer.text)
        if answer.text:
            self.conversation.add("assistant", answer.text)
        else:
            self.conversation.last_question()
        return answer, problem


class Session:
    """Reads questions and commands until the user leaves."""

    def __init__(
        self, chat: Chat, prompt: Asker, talk: Console, *, report: Callable[[TgiError], object],
        tell: Callable[[Answer], None],
    ) -> None:  # fmt: skip
        self._chat = chat
        self._prompt = prompt
        self._talk = talk
        self._report = report
        self._tell = tell  # what follows an answer: the footer
        self._last = ""

    def run(self) -> None:
        """Until `/exit`, Ctrl-D, or Ctrl-C twice at an empty prompt."""
        leaving = False
        with asyncio.Runner() as runner:
            while True:
                try:
                    text = self._prompt.question()
                except EOFError:
                    self._talk.print()
                    return
                except KeyboardInterrupt:
                    self._talk.print()
                    if leaving:
                        return
                    if not self._prompt.typed():
                        leaving = True
                        self._talk.print("Ctrl-C again, or Ctrl-D, leaves", style="dim")
                    continue
                leaving = False
                if text.startswith("/") and not text.startswith("//"):
                    if self._obey(text, runner):
                        return
                elif text:
                    self._answer(text.removeprefix("/") if text.startswith("//") else text, runner)

    def _answer(self, question: str, runner: asyncio.Runner) -> None:
        self._last = question
        try:
            answer, problem = runner.run(self._chat.ask(question))
        except KeyboardInterrupt:  # twice, before the first one was dealt with
            self._talk.print()
            return
        if answer.text or problem is None:
            self._tell(answer)
        if problem is not None:
            self._report(problem)

    def _obey(self, text: str, runner: asyncio.Runner) -> bool:
        """Carry out one command. Returns: whether to leave."""
        name, _, argument = text.partition(" ")
        name, argument = _OTHER_NAMES.get(name.lower(), name.lower()), argument.strip()
        try:
            if name == "/exit":
                return True
            if name == "/retry":
                self._retry(runner)
            else:
                self._talk.print(self._change(name, argument), style="dim", markup=False)
        except TgiError as error:
            self._report(error)
        return False

    def _retry(self, runner: asyncio.Runner) -> None:
        """The last question again: one that failed has left the conversation already."""
        turns = self._chat.conversation.turns
        question = (self._chat.conversation.last_question() if turns else None) or self._last
        if not question:
            raise TgiError("nothing was asked yet", hint="type a question")
        self._answer(question, runner)

    def _change(self, name: str, argument: str) -> str:
        """Do what changes or shows the conversation. Returns: what to say. Raises: TgiError."""
        conversation = self._chat.conversation
        if name == "/help":
            rows = [f"{f'{name} {argument}'.strip():<15} {meaning}" for name, (argument, meaning) in COMMANDS.items()]
            return "\n".join([*rows, "", _KEYS])
        if name == "/system":
            if argument:
                conversation.system = "" if argument == "-" else argument
                return "system prompt set" if conversation.system else "system prompt removed"
            return f"system prompt: {printable(conversation.system)}" if conversation.system else "no system prompt"
        if name == "/reset":
            conversation.turns.clear()
            self._last = ""
            return "conversation forgotten" + (", system prompt kept" if conversation.system else "")
        if name in ("/save", "/load") and not argument:
            raise TgiError(f"`{name}` needs a file", hint=f"for example `{name} talk.json`")
        if name == "/save":
            path = conversation.save(argument, self._chat.model)
            return f"saved {_turns(len(conversation.turns))} to {path}"
        if name == "/load":
            return f"loaded {_turns(conversation.load(argument))} from {argument}"
        match = difflib.get_close_matches(name, [*COMMANDS, *_OTHER_NAMES], n=1)
        raise TgiError(f"unknown command `{name}`", hint=f"did you mean `{match[0]}`?" if match else "see `/help`")


@contextlib.contextmanager
def markdown_view(console: Console) -> Iterator[View]:
    """A `Chat.view` for terminals."""
    with _no_echo(), MarkdownStream(console) as stream:
        yield stream


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keys pressed meanwhile, Ctrl-C too, write nothing into the answer; what was typed waits for the next prompt."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


async def _draw(view: View, answer: Answer) -> None:
    """Show the answer again and again. A screen that takes long to draw is drawn less often."""
    shown = None
    while True:
        began = time.monotonic()
        state = (len(answer.text), len(answer.thoughts), None if answer.text else int(began))
        if state != shown:
            view.show(answer.text, answer.thoughts)
            shown = state
        await asyncio.sleep(max(FRAME_S, 4 * (time.monotonic() - began)))


def _empty(answer: Answer) -> TgiError | None:
    if not answer.text and not answer.thoughts and not answer.tokens:
        return Refused("the server sent an empty answer", hint="ask differently, or look at the server's log")
    return None


def _turns(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
