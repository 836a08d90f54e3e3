"""A server whose log nobody reads serves, and ends, as any other (spec/reliability.md F21)."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

START_S = 120
REQUESTS = 30


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether the server is ready."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.parametrize("flags", [[], ["--json-output"]])
def test_a_full_pipe_stops_neither_the_server_nor_its_end(flags: list[str]) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    port = free_port()
    command = [sys.executable, "-m", "tgi", "serve", "--hostname", "127.0.0.1", "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not answers(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        body = json.dumps({"inputs": "x", "parameters": {"max_new_tokens": 1}}).encode()
        for _ in range(REQUESTS):  # each is a line of some 400 characters
            request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert os.read(reader, 1 << 20).count(b"Success") < REQUESTS  # it was full: there was no room for others
    finally:
        process.kill()
        process.wait()
        os.close(reader)
