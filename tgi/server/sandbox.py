"""What a process gives up before it works on what strangers sent: time, memory, files, connections, its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator

from tgi import children

_PR_SET_NAME = 15
_STATM = "/proc/self/statm"


def confine(name: str, parent_pid: int, memory_bytes: int) -> None:
    """Bind this process to its parent's life and to `memory_bytes` more address space than it has.

    It can open no further file or connection, and write no file. `name` is shown by `ps`, up to 15 characters.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends the process, in whatever loop it is
    children.die_with(parent_pid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
    _lower(resource.RLIMIT_AS, _address_space() + memory_bytes)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, 0)  # what is open stays open


@contextlib.contextmanager
def limited_cpu(seconds: float) -> Iterator[None]:
    """End the process with SIGPROF when the body uses more than `seconds` of CPU time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _address_space() -> int:
    if not os.path.exists(_STATM):
        return 0
    with open(_STATM) as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # elsewhere than on Linux, address space cannot be bounded
        resource.setrlimit(limit, (lowered, lowered))
