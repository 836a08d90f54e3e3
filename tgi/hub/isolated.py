"""Runs a function in a child process that cannot reach a network: for files whose reading may run code.

The child is told by the kernel, where it is Linux, and by Python itself everywhere, that there are no sockets; it
starts no program, and ends with its parent. A child that can still open a socket does nothing.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import multiprocessing
import os
import platform
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from tgi.errors import ModelError

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EACCES
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
# Name of the machine: its number in audit records, and its system calls `socket`, `socketpair`, `io_uring_setup`.
_CALLS = {"x86_64": (0xC000003E, (41, 53, 425)), "aarch64": (0xC00000B7, (198, 199, 425))}
_REFUSED_EVENTS = ("socket.__new__", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork")


def run_isolated(function: str, *arguments: Any) -> Any:
    """The result of `function` ("module:name"), called with `arguments` in a child without network.

    Raises: ModelError as the function raised it; or with exit code 16 when the child ended without an answer.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(
        target=_child, args=(theirs, os.getpid(), function, arguments), name="tgi-isolated", daemon=True
    )
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # or multiprocessing runs our parent's program again
    try:
        child.start()
    finally:
        sys.modules["__main__"] = program
    theirs.close()
    try:
        with ours:
            outcome, value, hint, code = ours.recv()
    except EOFError as error:
        child.join()
        raise ModelError(f"the process that reads the weights ended with status {child.exitcode}",
                         hint="the files may be damaged, or the memory too small", exit_code=16) from error  # fmt: skip
    finally:
        if child.is_alive():
            child.join(1)
            child.kill()
        child.join()
    if outcome == "failed":
        raise ModelError(value, hint=hint, exit_code=code)
    return value


def give_up_the_network() -> None:
    """Take sockets and other programs from this process. Raises: RuntimeError when it still has them."""
    sys.addaudithook(_refuse)
    if sys.platform == "linux" and platform.machine() in _CALLS:
        _filter_calls(*_CALLS[platform.machine()])
    try:
        socket.socket().close()
    except OSError:
        return
    raise RuntimeError("sockets could not be taken away")


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _REFUSED_EVENTS:
        raise PermissionError(errno.EACCES, f"{event} is not allowed while weights are converted")


def _filter_calls(machine: int, calls: tuple[int, ...]) -> None:
    """A filter of the kernel that answers EACCES to `calls`, and lets all others through."""
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _DENY), (_LOAD, 0, 0, 0)]
    for call in calls:
        program += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _DENY)]
    code = b"".join(struct.pack("=HBBI", *line) for line in [*program, (_RETURN, 0, 0, _ALLOW)])
    buffer = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    process = ctypes.CDLL(None, use_errno=True)
    process.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    process.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)  # refused by old kernels: then Python has to do


def _child(answer: Connection, parent: int, function: str, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        give_up_the_network()
        module, _, name = function.partition(":")
        result = getattr(importlib.import_module(module), name)(*arguments)
    except ModelError as error:
        answer.send(("failed", error.message, error.hint, error.exit_code))
    except OSError as error:
        code = 15 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else 1
        answer.send(
            ("failed", f"the weights cannot be converted: {error}", "free some space, or check permissions", code)
        )
    except Exception as error:
        answer.send(("failed", f"the weights cannot be converted: {type(error).__name__}: {_first_line(error)}",
                     "use a repository or a revision with .safetensors files", 16))  # fmt: skip
    else:
        answer.send(("done", result, None, 0))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
