"""Questions typed at a terminal: readline's editing and history, and lines that belong together."""

from __future__ import annotations

import contextlib
import glob
import os
import readline
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HISTORY_LINES = 1000
FENCE = '"""'
_SETTINGS = (
    "set enable-bracketed-paste on",  # several pasted lines are one question
    "tab: complete",
    r'"\e\C-m": "\C-v\C-j"',  # Alt-Enter begins a new line
)


class Prompt:
    """Asks for one question at a time, of one or more lines.

    A line that ends in a backslash goes on in the next one; so does everything between two lines of three quotes.
    """

    def __init__(
        self, history: Path, commands: Sequence[str], *, colour: bool, ask: Callable[[str], str] = input
    ) -> None:
        self._history = history
        self._commands = commands
        self._colour = colour
        self._ask = ask

    def open(self) -> None:
        """Read the history and set the keys. A history that cannot be read is an empty one."""
        for setting in _SETTINGS:
            readline.parse_and_bind(setting)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n")
        readline.set_history_length(HISTORY_LINES)
        with contextlib.suppress(OSError):
            readline.read_history_file(self._history)

    def close(self) -> None:
        """Keep the history for the next time, for this user's eyes only; not being able to is no failure."""
        with contextlib.suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(self._history)

    def question(self) -> str:
        """What the user typed. Raises: EOFError (Ctrl-D), KeyboardInterrupt (Ctrl-C)."""
        line = self._line(">>> ")
        if line.strip().startswith(FENCE):
            return self._fenced(line.strip().removeprefix(FENCE))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._line("... "))
        return "\n".join(lines).strip()

    def typed(self) -> bool:
        """After Ctrl-C: whether it took back something."""
        return bool(readline.get_line_buffer().strip())

    def _fenced(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(FENCE):
            lines.append(line)
            line = self._line("... ")
        lines.append(line.rstrip().removesuffix(FENCE))
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if not sys.stdout.isatty():  # the answers go elsewhere: talk on stderr
            print(prompt, end="", file=sys.stderr, flush=True)
            return self._ask("")
        # The marks \x01 and \x02 tell readline that colours take no room.
        return self._ask(f"\x01\x1b[1;36m\x02{prompt}\x01\x1b[0m\x02" if self._colour else prompt)

    def _complete(self, word: str, state: int) -> str | None:
        line = readline.get_line_buffer().lstrip()
        if " " not in line:
            found = [command + " " for command in self._commands if line.startswith("/") and command.startswith(word)]
        else:
            paths = (
                glob.glob(glob.escape(os.path.expanduser(word)) + "*") if line.startswith(("/save", "/load")) else []
            )
            found = [path + ("/" if os.path.isdir(path) else "") for path in sorted(paths)]
        return found[state] if state < len(found) else None
