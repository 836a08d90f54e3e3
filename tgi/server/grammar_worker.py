"""The process that compiles grammars: one at a time, within limits that end it when they are passed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from msgspec import Struct

from tgi.errors import EngineGone
from tgi.guidance.grammar import Compiler, Constraint
from tgi.guidance.limits import GrammarError
from tgi.server.sandbox import confine, limited_cpu
from tgi.wire import Channel

CPU_S = 2.0  # of one grammar
MEMORY_BYTES = 512 << 20  # of address space, beyond what the process has when it is ready
PROCESS_NAME = "tgi-grammars"


class Compiled(Struct, frozen=True, tag=True):
    """A grammar as the engine reads it."""

    grammar: str


class Refused(Struct, frozen=True, tag=True):
    """Why a constraint cannot be used."""

    reason: str


Reply = Compiled | Refused


def main(sock: socket.socket, parent_pid: int, special_tokens: Sequence[str]) -> None:
    """The life of the worker: until its socket is closed, or a grammar passes its limits."""
    compiler = Compiler(special_tokens)
    confine(PROCESS_NAME, parent_pid, MEMORY_BYTES)
    channel: Channel[Reply, Constraint] = Channel(sock, Constraint)
    with contextlib.suppress(EngineGone):
        while True:
            constraint = channel.receive()
            with limited_cpu(CPU_S):
                reply = _compile(compiler, constraint)
            channel.send(reply)


def _compile(compiler: Compiler, constraint: Constraint) -> Reply:
    try:
        return Compiled(compiler.compile(constraint))
    except GrammarError as error:
        return Refused(str(error))
