"""What was said: the messages that every request repeats, and the file they are kept in."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from tgi.errors import TgiError


class Message(msgspec.Struct):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class Saved(msgspec.Struct):
    """A file written by `/save`."""

    messages: list[Message]
    model: str = ""


@dataclass(slots=True)
class Conversation:
    """A system prompt and the turns so far."""

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """All of it, as a request carries it."""
        head = [Message("system", self.system)] if self.system else []
        return [msgspec.to_builtins(message) for message in [*head, *self.turns]]

    def add(self, role: Literal["user", "assistant"], content: str) -> None:
        """Append one turn."""
        self.turns.append(Message(role, content))

    def last_question(self) -> str | None:
        """Take the last question back, with its answer if it has one; None where nothing was asked."""
        while self.turns:
            turn = self.turns.pop()
            if turn.role == "user":
                return turn.content
        return None

    def save(self, name: str, model: str) -> Path:
        """Write it to a JSON file. Returns: the file. Raises: TgiError where it cannot be written, or is another's."""
        path = Path(name).expanduser()
        try:
            if path.exists():
                _read(path)  # only a conversation may be overwritten
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            data = {"model": model, "messages": self.messages()}
            part.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise _file_error("write", name, error) from error
        except ValueError as error:
            raise TgiError(
                f"`{name}` exists and is no conversation: not overwritten", hint="choose another name"
            ) from error
        return path

    def load(self, name: str) -> int:
        """Replace everything by a file of `save`, or by a JSON list of messages. Returns: how many turns it has.

        Raises: TgiError; nothing is changed then.
        """
        try:
            saved = _read(Path(name).expanduser())
        except OSError as error:
            raise _file_error("read", name, error) from error
        except ValueError as error:
            raise TgiError(
                f"`{name}` is no conversation: {str(error).splitlines()[0]}",
                hint="load a file that `/save` has written",
            ) from error
        self.system = "\n\n".join(m.content for m in saved.messages if m.role == "system")
        self.turns = [message for message in saved.messages if message.role != "system"]
        return len(self.turns)


def _read(path: Path) -> Saved:
    """Raises: OSError; ValueError (msgspec's errors are some) for what is no conversation."""
    data = path.read_bytes()
    if data.lstrip()[:1] == b"[":
        return Saved(msgspec.json.decode(data, type=list[Message]))
    return msgspec.json.decode(data, type=Saved)


def _file_error(verb: str, name: str, error: OSError) -> TgiError:
    reason = (error.strerror or str(error)).lower()
    return TgiError(f"cannot {verb} `{name}`: {reason}", hint="check the path and its permissions")
