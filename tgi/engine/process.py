"""Starts the engine process, and ends it: a child that imports nothing of its parent's program but this package."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import logging
import multiprocessing
import os
import signal
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tgi import children, log
from tgi.config import Config

logger = logging.getLogger(__name__)

# Named, not imported: only the child needs what they load.
ENGINE = "tgi.engine.core:main"
RUNNER = "tgi.engine.core:load_runner"


class EngineHandle:
    """A running engine process: the front end's end of its socket, and the ways to end it."""

    def __init__(self, process: BaseProcess, sock: socket.socket) -> None:
        self._process = process
        self.socket = sock
        # multiprocessing waits for its children at exit: one that nobody ended must not keep us.
        atexit.register(self.kill)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A file descriptor that becomes readable when the process has ended."""
        return int(self._process.sentinel)

    def dump_stacks(self) -> None:
        """Ask the engine to write the stack of every thread to stderr."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End the process at once, whatever it is doing. Does nothing when it has ended."""
        self._signal(signal.SIGKILL)

    def reap(self) -> str:
        """Wait for the end of the process and give its entry in the process table back.

        Returns: how it ended, such as "was killed by SIGKILL" or "exited with status 1".
        """
        self._process.join()
        atexit.unregister(self.kill)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with status {code}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start(config: Config, model_path: Path, *, runner: str = RUNNER) -> EngineHandle:
    """Start an engine process for a model; its first message says whether it can generate.

    Call it on the main thread: Linux ends the child with the thread that started it. `runner` names the function, as
    "module:name", that makes a runner of (config, model_path) in the child.
    """
    ours, theirs = socket.socketpair()
    arguments = (theirs, os.getpid(), config, model_path, runner)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=arguments, name="tgi-engine")
    with theirs:
        children.start(process)
    return EngineHandle(process, ours)


def _child(sock: socket.socket, parent_pid: int, config: Config, model_path: Path, runner: str) -> None:
    """The child's entry."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children.die_with(parent_pid)
    telemetry = config.telemetry
    log.configure(json_lines=telemetry.json_output, level=telemetry.log_level)
    _preload(config.preload)
    load = _resolve(runner)
    _resolve(ENGINE)(sock, config, lambda: load(config, model_path))


def _preload(libraries: tuple[str, ...]) -> None:
    """Load libraries that torch will look for by name alone; one that does not load is one it does without."""
    for library in libraries:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            logger.warning("`%s` could not be loaded: %s", library, error)


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
