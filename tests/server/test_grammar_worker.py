"""The compiling process answers, whatever it is asked, until its socket is closed."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Iterator

import pytest

from tgi.guidance.grammar import Constraint
from tgi.server.grammar_worker import Compiled, Refused, Reply, main
from tgi.wire import Channel


@pytest.fixture(scope="module")
def channel() -> Iterator[Channel[Constraint, Reply]]:
    ours, theirs = socket.socketpair()
    process = multiprocessing.get_context("spawn").Process(target=main, args=(theirs, os.getpid(), ["<|tool|>"]))
    process.start()
    theirs.close()
    channel: Channel[Constraint, Reply] = Channel(ours, Reply)
    yield channel
    channel.close()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [
        (Constraint("regex", "(0|1)*1(0|1){20}"), Compiled),
        (Constraint("regex", "("), Refused),
        (Constraint("json", '{"type":"object"}'), Compiled),
        (Constraint("json", "[" * 10_000), Refused),
        (Constraint("lark", "start: <|tool|>"), Compiled),
        (Constraint("choice", "[]"), Refused),
        (Constraint("regex", "a" * 4096), Compiled),
    ],
)
def test_every_constraint_is_answered_by_the_same_process(
    channel: Channel[Constraint, Reply], constraint: Constraint, answer: type
) -> None:
    channel.send(constraint)
    assert isinstance(channel.receive(), answer)
