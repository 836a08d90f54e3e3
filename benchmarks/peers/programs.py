"""The programs that are measured: how each starts, generates and ends.

Ours and llama.cpp's server are asked over HTTP, with streaming; OpenVINO GenAI generates inside a worker of its own,
without HTTP, as its users have it. Prompts are token ids, the same for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import psutil

from benchmarks.peers.environments import Missing

START_S = 120.0
CONTEXTS = 32 * 1280  # tokens of KV cache: 32 streams, each with a prompt of 1,024 and its answer
_POLL_S = 0.02


@dataclass
class Trace:
    """When one request was sent and when its tokens came, in seconds since the load began."""

    sent: float
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """One prompt and how many tokens are to follow, sent `at_s` seconds after the load begins."""

    prompt: list[int]
    new_tokens: int
    at_s: float = 0.0


class Program(Protocol):
    """A running program."""

    process: subprocess.Popen[bytes]

    async def generate(self, requests: Sequence[Request]) -> list[Trace]:
        """Send requests at their times, and read all tokens."""

    def stop(self) -> None:
        """End it."""


class HttpProgram:
    """A server that streams events, one a token."""

    def __init__(self, command: Sequence[str], path: str, log: Path) -> None:
        self._url = f"http://127.0.0.1:{free_port()}"
        self._path = path
        port = self._url.rpartition(":")[2]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [word.replace("{port}", port) for word in command], stdout=out, stderr=subprocess.STDOUT
            )
        self._log = log

    async def first_token(self, prompt: list[int]) -> None:
        """Ask until a token comes. Raises: Missing when the program ends, or says nothing for too long."""
        deadline = time.perf_counter() + START_S
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                raise Missing(f"it ended: {self._log.read_text(errors='replace')[-600:].strip()}")
            with contextlib.suppress(aiohttp.ClientError):
                if (await self.generate([Request(prompt, 1)]))[0].times:
                    return
            await asyncio.sleep(_POLL_S)
        raise Missing(f"no token within {START_S:.0f} s")

    async def generate(self, requests: Sequence[Request]) -> list[Trace]:
        """Send requests at their times, each on a connection of its own, and read all tokens."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            start = time.perf_counter()
            return list(await asyncio.gather(*(self._one(session, request, start) for request in requests)))

    async def _one(self, session: aiohttp.ClientSession, request: Request, start: float) -> Trace:
        await asyncio.sleep(max(0.0, start + request.at_s - time.perf_counter()))
        trace = Trace(time.perf_counter() - start)
        async with session.post(self._url + self._path, json=self.body(request)) as response:
            response.raise_for_status()
            rest = b""
            async for chunk in response.content.iter_any():
                now = time.perf_counter() - start
                *events, rest = (rest + chunk).split(b"\n\n")
                # Whole events are counted, not parsed: the client shares the machine with what it measures.
                count = sum(event.startswith(b"data: {") or event.startswith(b"data:{") for event in events)
                trace.times += [now] * min(count, request.new_tokens - len(trace.times))
        return trace

    def body(self, request: Request) -> dict[str, Any]:
        """The request as the server wants it."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it, and what it started."""
        end(self.process)


class Ours(HttpProgram):
    """`tgi serve`, as it is after `pip install`: no flag but the model and what makes its mode."""

    def __init__(self, model: Path, flags: Sequence[str], log: Path) -> None:
        serve = [sys.executable, "-m", "tgi", "serve", "--hostname", "127.0.0.1", "--port", "{port}"]
        super().__init__([*serve, "--model-id", str(model), *flags], "/v1/completions", log)

    def body(self, request: Request) -> dict[str, Any]:
        """OpenAI's completion of token ids."""
        return {
            "model": "tgi", "prompt": request.prompt, "max_tokens": request.new_tokens, "temperature": 0,
            "ignore_eos": True, "stream": True,
        }  # fmt: skip

    async def logprobs(self, ids: list[int]) -> list[float]:
        """The log-probability of each id but the first after those before it."""
        body = {"model": "tgi", "prompt": ids, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        async with aiohttp.ClientSession() as session, session.post(self._url + self._path, json=body) as response:
            response.raise_for_status()
            found = (await response.json())["choices"][0]["logprobs"]["token_logprobs"]
        return [float(value) for value in found[1 : len(ids)]]


class Llama(HttpProgram):
    """llama.cpp's server with 32 slots and one thread a processor."""

    def __init__(self, programs: Path, model: Path, log: Path) -> None:
        threads = str(psutil.cpu_count() or 1)
        super().__init__(
            [str(programs / "llama-server"), "-m", str(model), "-c", str(CONTEXTS), "-np", "32", "-t", threads,
             "--host", "127.0.0.1", "--port", "{port}"],
            "/completion", log,
        )  # fmt: skip

    def body(self, request: Request) -> dict[str, Any]:
        """Its own completion of token ids; no prompt is looked up in its cache."""
        return {
            "prompt": request.prompt, "n_predict": request.new_tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "cache_prompt": False,
        }  # fmt: skip


class OpenVino:
    """OpenVINO GenAI's continuous batching in a worker process."""

    def __init__(self, python: Path, folder: Path, log: Path) -> None:
        script = Path(__file__).with_name("openvino_worker.py")
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(python), str(script), str(folder), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out
            )

    async def first_token(self, prompt: list[int]) -> None:
        """Wait for it to load, then generate one token. Raises: Missing when it ends."""
        await self._read()
        await self.generate([Request(prompt, 1)])

    async def generate(self, requests: Sequence[Request]) -> list[Trace]:
        """Hand the whole load over, and wait for its traces."""
        job = {
            "prompts": [request.prompt for request in requests], "at_s": [request.at_s for request in requests],
            "new_tokens": [request.new_tokens for request in requests],
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        answer = await self._read()
        return [Trace(trace["sent"], trace["times"]) for trace in answer["traces"]]

    async def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := await asyncio.to_thread(self.process.stdout.readline):
            if line.startswith(b"{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise Missing(f"it ended: {self._log.read_text(errors='replace')[-600:].strip()}")

    def stop(self) -> None:
        """End it."""
        end(self.process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, then make it."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[psutil.Process]:
    """A process and all it started."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and all it started, added up."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process and all it started have used."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
