"""Child processes by multiprocessing's "spawn": what they must not inherit, and how they end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import ModuleType

_PR_SET_PDEATHSIG = 1


def start(process: BaseProcess) -> None:
    """Start a child that imports nothing of our program but the module of its target."""
    with _anonymous_main(), _no_resource_tracker():
        process.start()


def die_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends; elsewhere than on Linux, end of file has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it ended before we asked
            sys.exit(1)


@contextlib.contextmanager
def _anonymous_main() -> Iterator[None]:
    """Hide the parent's program from multiprocessing, which would run it again in the child.

    That program may be a console script, a zip file, a notebook or a test runner: slow to import, or impossible.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


@contextlib.contextmanager
def _no_resource_tracker() -> Iterator[None]:
    """Keep multiprocessing from starting a process (12 MiB) that cleans up semaphores: our children talk by sockets."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    getfd = resource_tracker.getfd
    resource_tracker.getfd = lambda: nowhere
    try:
        yield
    finally:
        resource_tracker.getfd = getfd
        os.close(nowhere)
