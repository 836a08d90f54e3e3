"""A real `tgi serve` in a process of its own, and a small client for it: what the integration tests talk to."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any, Self

import psutil

START_S = 120


class LiveServer:
    """`tgi serve *arguments` on a free port of the loopback interface, ready when the constructor returns.

    `command` is another command that serves, such as `launch`.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, command: str = "serve") -> None:
        words = [sys.executable, "-m", "tgi", command, "--hostname", "127.0.0.1", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = ""
        while True:
            line = self._queue.get(timeout=START_S)
            assert line is not None, "tgi serve ended before it was ready:\n" + "".join(self.lines)
            if "http://127.0.0.1:" in line and not self.url:
                self.url = "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split("/")[0].split()[0].strip()
            if "Connected" in line:
                break
        assert self.url, "no URL was printed:\n" + "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def engine(self) -> psutil.Process:
        """The engine process: the child that is no helper of the front end or of Python, and no zombie."""
        children = [
            child
            for child in psutil.Process(self.process.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE
            and not child.name().startswith("tgi-")  # helpers of the front end are named
            and "resource_tracker" not in " ".join(child.cmdline())
        ]
        assert len(children) == 1, children
        return children[0]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer of one POST."""
        with self.open(path, body) as response:
            return json.load(response)

    def get(self, path: str) -> Any:
        """The JSON answer of one GET."""
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return json.load(response)

    def open(self, path: str, body: dict[str, Any]) -> Any:
        """The open response of one POST, to be read as it arrives."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=240)

    def stream(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """All events of one `/generate_stream` request."""
        with self.open("/generate_stream", body) as response:
            return [json.loads(line[5:]) for line in response if line.startswith(b"data:")]

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


def model_arguments(model: Path | None) -> list[str]:
    """`--model-id` for a local model, nothing for the default one."""
    return ["--model-id", str(model)] if model else []
