"""A program in a pseudo-terminal, and its screen as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pyte

PATIENCE_S = 60.0


class Terminal:
    """`command` in a pseudo-terminal of `columns` x `rows`, its screen kept up to date by `until()` and `wait()`."""

    def __init__(
        self, command: Sequence[str], *, columns: int = 80, rows: int = 24, environment: Mapping[str, str] | None = None
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=5000)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, worker = pty.openpty()
        self.before = termios.tcgetattr(worker)
        self.resize(columns, rows)
        self.worker = worker  # kept open, so that the modes can be read after the program's end
        variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **(environment or {})}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            if not variables.get(name):
                variables.pop(name, None)
        self.process = subprocess.Popen(
            command, stdin=worker, stdout=worker, stderr=worker, env=variables, preexec_fn=_own_terminal,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        """As a window manager does it: the new size, and SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if (self.screen.columns, self.screen.lines) != (columns, rows):
            self.screen.resize(rows, columns)
            os.killpg(self.process.pid, signal.SIGWINCH)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def text(self) -> str:
        """The screen, without the blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def scrollback(self) -> str:
        """Everything above the screen, and the screen."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    def until(self, fits: str | Callable[[str], bool]) -> str:
        """Wait until the screen has this text, or fits. Returns: the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while not (fits in self.text() if isinstance(fits, str) else fits(self.text())):
            assert time.monotonic() < deadline, f"{fits!r} never came; the screen:\n{self.text()}"
            assert self.read() or self.process.poll() is None, f"ended before {fits!r}; the screen:\n{self.text()}"
        return self.text()

    def wait(self) -> int:
        """Until the program ends. Returns: its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; the screen:\n{self.text()}"
            self.read()
        while self.read(0.05):
            pass
        return self.process.returncode

    def read(self, patience_s: float = 0.1) -> bool:
        """Take what the program has written. Returns: whether there was anything."""
        if not select.select([self._master], [], [], patience_s)[0]:
            return False
        data = os.read(self._master, 65536)
        self.written += data
        self._stream.feed(data)
        return True

    def restored(self) -> bool:
        """Whether the terminal is as the program found it: its modes, the cursor, the main screen."""
        hidden = self.written.rfind(b"\x1b[?25l") > self.written.rfind(b"\x1b[?25h")
        away = self.written.rfind(b"\x1b[?1049h") > self.written.rfind(b"\x1b[?1049l")
        return termios.tcgetattr(self.worker) == self.before and not hidden and not away

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
        os.close(self.worker)


def tgi(*arguments: str) -> list[str]:
    """The command line of `tgi`."""
    return [sys.executable, "-m", "tgi", *arguments]


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
