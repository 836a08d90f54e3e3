"""A confined process cannot do what it gave up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tgi.server.sandbox import confine, limited_cpu

REFUSED = 3


def _confined(action: Callable[[], Any]) -> None:
    confine("tgi-test", os.getppid(), 64 << 20)
    try:
        action()
    except (OSError, MemoryError):
        os._exit(REFUSED)  # nothing may be written any more, a traceback neither


def _spin() -> None:
    with limited_cpu(0.05):
        while True:
            pass


def _finish_in_time() -> None:
    with limited_cpu(5.0):
        sum(range(1000))


def _fill_memory() -> None:
    bytearray(128 << 20)


def _connect() -> None:
    socket.socket()


def _write() -> None:
    with open(os.path.join(tempfile.gettempdir(), "tgi-test"), "w") as file:
        file.write("x")


def _name() -> None:
    assert psutil.Process().name() == "tgi-test"


def outcome(action: Callable[[], Any]) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=_confined, args=(action,))
    process.start()
    process.join(60)
    return process.exitcode


def test_a_loop_is_ended_by_the_kernel() -> None:
    assert outcome(_spin) == -signal.SIGPROF


def test_work_within_its_limits_is_left_alone() -> None:
    assert outcome(_finish_in_time) == 0


@pytest.mark.parametrize("action", [_fill_memory, _connect, _write])
def test_memory_connections_and_files_are_refused(action: Callable[[], None]) -> None:
    assert outcome(action) == REFUSED
