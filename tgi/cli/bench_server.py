"""A `tgi serve` of our own to measure: started on a free port, stopped afterwards, gone if we are."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import wait
from pathlib import Path

import aiohttp

from tgi.cli.main import main
from tgi.errors import TgiError

_POLL_S = 0.1
_GRACE_S = 20.0  # for streams to end before the server is killed
_LINES = 3


class ServerFailed(TgiError):
    """The server did not come up."""


@asynccontextmanager
async def serving(arguments: Sequence[str]) -> AsyncIterator[str]:
    """The URL of a server with these flags of `tgi serve`, ready. Raises: ServerFailed with its last words."""
    with tempfile.TemporaryDirectory(prefix="tgi-bench-") as folder:
        log = Path(folder) / "serve.log"
        port = _free_port()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(["serve", *arguments, "--hostname", "127.0.0.1", "--port", str(port)], str(log)),
            name="tgi-bench-serve",
        )  # fmt: skip
        process.start()
        url = f"http://127.0.0.1:{port}"
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
                while not await _healthy(session, url):
                    if process.exitcode is not None:
                        raise _failure(log)
                    await asyncio.sleep(_POLL_S)
            yield url
        finally:
            process.terminate()
            await asyncio.to_thread(process.join, _GRACE_S)
            if process.exitcode is None:
                process.kill()
                await asyncio.to_thread(process.join)


def _serve(arguments: list[str], log: str) -> None:
    """In the child: `tgi serve`, its words in a file, apart from the terminal's Ctrl-C, ending when the parent does."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    threading.Thread(target=_follow_parent, daemon=True).start()
    main(arguments)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


async def _healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        return False


def _failure(log: Path) -> ServerFailed:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    words = errors[-1] if errors else " / ".join(lines[-_LINES:]) or "it said nothing"
    return ServerFailed(f"`tgi serve` did not start: {words}", hint=hints[-1] if hints else "try `tgi serve` by itself")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
