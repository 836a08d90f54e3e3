"""Nothing that a client sends is written to a disk (spec/reliability.md V36)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests.live import LiveServer
from tests.server.serving import answering, serve

REQUESTS = 1000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
MAKING = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "tempfile.mkstemp", "tempfile.mkdtemp"}


def mixed(number: int) -> tuple[str, dict[str, Any]]:
    """Request `number`: every route, what is fine and what is refused, and never twice the same words."""
    words = f"words {number} \x00 ../../etc/passwd%n"
    talk = {"messages": [{"role": "user", "content": words}], "max_tokens": 2}
    tool = {"type": "function", "function": {"name": f"f{number}", "parameters": {"type": "object", "properties": {}}}}
    short = {"max_new_tokens": 2}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"inputs": words, "parameters": short}),
        ("/generate_stream", {"inputs": words, "parameters": short | {"details": True, "seed": number}}),
        ("/", {"inputs": words, "stream": True, "parameters": short}),
        ("/generate", {"inputs": words, "parameters": {"adapter_id": words, "max_new_tokens": 2}}),
        ("/generate", {"inputs": words, "parameters": short | {"grammar": {"type": "regex", "value": f"{number}a*"}}}),
        ("/v1/chat/completions", talk | {"stream": True, "user": words}),
        ("/v1/chat/completions", talk | {"model": words, "tools": [tool], "tool_choice": "required"}),
        ("/v1/completions", {"prompt": [words, "x"], "max_tokens": 2, "echo": True, "logprobs": 1}),
        ("/v1/completions", {"prompt": words, "max_tokens": 2, "response_format": {
            "type": "json_schema", "json_schema": {"schema": {"properties": {words: {"type": "string"}}}}}}),
        ("/tokenize", {"inputs": words}),
        ("/chat_tokenize", talk),
        ("/vertex", {"instances": [{"inputs": words, "parameters": short}]}),
        ("/invocations", {"inputs": words, "parameters": short}),
        ("/generate", {"inputs": words, "parameters": {"top_k": -number}}),
    ]  # fmt: skip
    return requests[number % len(requests)]


async def test_a_thousand_mixed_requests_open_no_file_for_writing(tmp_path: Path) -> None:
    written: list[Any] = []
    watching = False

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(details[0], str | bytes):
            if int(details[2] or 0) & WRITING and not str(details[0]).startswith("/dev/"):
                written.append(details[0])
        elif watching and event in MAKING:
            written.append((event, details))

    sys.addaudithook(audit)  # cannot be taken back, so it is told when to look
    async with serve(answering("ok")) as server:
        for number in range(20):  # what is made once, such as the processes that compile, is made now
            await server.post(*mixed(number))
        watching = True
        statuses = set()
        for first in range(0, REQUESTS, 50):
            batch = [server.post(*mixed(number)) for number in range(first, first + 50)]
            statuses |= {answer.status for answer in await asyncio.gather(*batch)}
        assert written == []
        (tmp_path / "seen").touch()
        watching = False
    assert statuses == {200, 422}
    assert written == [str(tmp_path / "seen")]  # it does look


def test_no_process_of_a_server_writes_to_a_disk(live_server: LiveServer) -> None:
    def ask(number: int) -> None:
        path, body = mixed(number)
        with contextlib.suppress(urllib.error.HTTPError), live_server.open(path, body) as response:
            response.read()

    def processes() -> list[psutil.Process]:
        front_end = psutil.Process(live_server.process.pid)
        return [front_end, *front_end.children(recursive=True)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(28)))
        before = {process.pid: process.io_counters().write_bytes for process in processes()}
        list(pool.map(ask, range(28, 140)))
        after = {process.pid: process.io_counters().write_bytes for process in processes()}
    assert after == before
    for process in processes():
        for opened in process.open_files():
            assert opened.mode == "r", f"{process.name()} holds {opened.path} open for writing"
