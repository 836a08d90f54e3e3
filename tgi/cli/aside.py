"""Calls a function of the engine's side in a child process: the command line itself never loads what that loads."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from tgi import children
from tgi.errors import TgiError


class _Answer(msgspec.Struct):
    """What came of a call: a value, or the error it raised."""

    value: Any = None
    error: str | None = None
    hint: str | None = None
    exit_code: int = 1


class ErrorAside(TgiError):
    """A TgiError of the child, with its exit code."""

    def __init__(self, message: str, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def call_aside(function: str, *arguments: Any) -> Any:
    """The value of `function`, "module:name", of these arguments, as plain JSON values.

    Raises: ErrorAside for a TgiError of the function, TgiError when the child died.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_child, args=(sending, os.getpid(), function, arguments), name="tgi-aside"
    )
    with receiving:
        with sending:
            children.start(process)
        try:
            answer = msgspec.json.decode(receiving.recv_bytes(), type=_Answer)
        except EOFError:
            process.join()
            raise TgiError(f"`{function}` ended with status {process.exitcode}",
                           hint="SIGKILL usually means that the machine ran out of memory") from None  # fmt: skip
    process.join()
    if answer.error is not None:
        raise ErrorAside(answer.error, answer.hint, answer.exit_code)
    return answer.value


def _child(sending: Connection, parent_pid: int, function: str, arguments: tuple[Any, ...]) -> None:
    children.die_with(parent_pid)
    module, _, name = function.partition(":")
    try:
        answer = _Answer(value=getattr(importlib.import_module(module), name)(*arguments))
    except TgiError as error:
        answer = _Answer(error=error.message, hint=error.hint, exit_code=error.exit_code)
    sending.send_bytes(msgspec.json.encode(answer))
