"""Runs the launcher's children, one at a time: starts, watches, ends and buries each, and leaves no orphan behind.

Children are forked, not spawned as the engine is: the launcher has one thread and has loaded neither torch nor the
server, so nothing can be left half-way in the copy, and a fork starts 0.2 s earlier than a new interpreter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from tgi import children
from tgi.cli.console import report

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REMIND_S = 10.0  # how often to say that a child is still starting
POLL_S = 0.25  # how often to look whether a child is of use; its end is known at once

Announce = Callable[[], None]  # a child calls it when it is of use
Job = Callable[[Announce], int]  # what a child does, and its exit code


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    code: int | None  # exit code; None when a signal killed it
    killer: str  # the signal's name; empty when there was none
    useful_s: float | None  # how long it had been of use; None when it never was

    @property
    def how(self) -> str:
        """In words: `was killed by SIGKILL`, `ended with exit code 1`."""
        return f"was killed by {self.killer}" if self.killer else f"ended with exit code {self.code}"


class Restarts:
    """How often, and after which delay, a child that died is started again.

    A child that was of use for `useful_s` clears the account; after `most` in a row that were not, it is over.
    """

    def __init__(self, *, most: int = 5, useful_s: float = 5.0, first_delay_s: float = 0.1) -> None:
        self._most = most
        self._useful_s = useful_s
        self._first_delay_s = first_delay_s
        self.fruitless = 0

    def delay_s(self, ended: Ended) -> float | None:
        """Seconds to wait before the next start; None: give up."""
        useful = ended.useful_s is not None and ended.useful_s >= self._useful_s
        self.fruitless = 0 if useful else self.fruitless + 1
        if self.fruitless >= self._most:
            return None
        return float(min(5.0, self._first_delay_s * 3 ** max(0, self.fruitless - 1)))


class Guardian:
    """Watches children while its block lasts, and passes the signals that end the launcher on to them.

    `remind` is called with a child's name and the seconds it has been starting, now and then. Use it on the main
    thread: the kernel ends the children with the thread that made them, also when the launcher is killed.
    """

    def __init__(self, *, remind: Callable[[str, float], None] = lambda name, seconds: None) -> None:
        self.signals = 0  # to stop, so far: one asks, two insist
        self._remind = remind
        self._before: dict[signal.Signals, Any] = {}
        self._wake: tuple[int, int] = (-1, -1)

    @property
    def stopping(self) -> bool:
        """Whether a signal asked for the end."""
        return self.signals > 0

    def __enter__(self) -> Self:
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
                self._before[number] = signal.signal(number, self._count)
        # Its default is to do nothing, which wakes nobody.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def watch(self, name: str, job: Job, *, grace_s: float) -> Ended:
        """Run `job` in a child until it ends. A signal is passed on; `grace_s` later, or at the third, it is killed.

        A child that nobody stopped, and its own children, are gone when this returns.
        """
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        pid = self._fork(job, reading, writing)
        os.close(writing)
        try:
            return self._attend(name, pid, reading, grace_s)
        finally:
            os.close(reading)

    def pause(self, seconds: float) -> None:
        """Wait, unless a signal comes."""
        deadline = time.monotonic() + seconds
        while not self.stopping and (left := deadline - time.monotonic()) > 0:
            self._sleep(left)

    def _attend(self, name: str, pid: int, ready: int, grace_s: float) -> Ended:
        began = time.monotonic()
        useful_since: float | None = None
        passed_on, deadline, reminder = 0, float("inf"), began + REMIND_S
        while (status := _bury(pid)) is None:
            now = time.monotonic()
            if useful_since is None and _announced(ready):
                useful_since, reminder = now, float("inf")
            elif self.signals > passed_on:
                passed_on += 1
                deadline, reminder = min(deadline, now + grace_s), float("inf")
                _kill(pid, signal.SIGTERM if passed_on < 3 else signal.SIGKILL)
            elif now >= deadline:
                _kill(pid, signal.SIGKILL)
                deadline = float("inf")
            elif now >= reminder:
                self._remind(name, now - began)
                reminder = now + REMIND_S
            else:
                self._sleep(min(deadline, reminder, now + POLL_S if useful_since is None else float("inf")) - now)
        code = os.waitstatus_to_exitcode(status)
        killer = signal.Signals(-code).name if code < 0 else ""
        if useful_since is None and _announced(ready):
            useful_since = time.monotonic()  # it said so with its last breath
        return Ended(
            None if killer else code, killer, None if useful_since is None else time.monotonic() - useful_since
        )

    def _fork(self, job: Job, reading: int, writing: int) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # A signal must find either the launcher's handlers or the child's, and never ours in the child.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            with contextlib.suppress(OSError):  # the child may have done it already, or be gone
                os.setpgid(pid, pid)
            return pid
        code = 1
        try:
            os.setpgid(0, 0)  # a terminal's Ctrl-C is for the launcher alone
            self._give_back()
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            os.close(reading)
            children.die_with(parent)
            code = job(lambda: _announce(writing))
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException as error:
            code = report(error, debug="--debug" in sys.argv)
        finally:
            with contextlib.suppress(Exception):
                for handler in logging.getLogger().handlers:
                    handler.flush()
                sys.stdout.flush()
                sys.stderr.flush()
            # Not `sys.exit`: the launcher's own frames are below, and none of what they would do is ours to do.
            os._exit(code)

    def _sleep(self, seconds: float) -> None:
        """Wait until a signal comes or a child ends."""
        readable, _, _ = select.select([self._wake[0]], [], [], None if seconds == float("inf") else max(0.0, seconds))
        if readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    def _give_back(self) -> None:
        """Signals do again what they did before the block."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for end in self._wake:
            os.close(end)


def _announce(writing: int) -> None:
    os.write(writing, b"1")
    os.close(writing)


def _announced(reading: int) -> bool:
    """Whether a child has said that it is of use. Its own children may hold the pipe open, so this never waits."""
    with contextlib.suppress(BlockingIOError):
        return bool(os.read(reading, 1))
    return False


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _bury(pid: int) -> int | None:
    """Take the dead out of the process table: as process 1 of a container the launcher inherits strangers too.

    Returns: the status of `pid`, once it has ended and the rest of its group is killed; None before.
    """
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            raise RuntimeError(f"child {pid} is gone, and nobody told how it ended") from None
        if dead is None:
            return None
        if dead.si_pid == pid:
            # Before it is buried, for until then the group's number is its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(dead.si_pid, 0)
        if dead.si_pid == pid:
            return status
