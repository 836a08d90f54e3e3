"""What every refusal must look like, whatever was sent (spec/reliability.md section 8, criterion OK5)."""

from __future__ import annotations

import asyncio
import json
import re

from tests.server.serving import Answer, Server

POST = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
EMPTY = (401, 404, 405)  # answered without a body
# V23: addresses, places of this machine, and pieces of tracebacks.
LEAK = re.compile(rb"0x[0-9a-f]{6,}|/usr|/home|/root|/tmp|site-packages|Traceback|File \"|aiohttp|msgspec")


def check_refusal(status: int, body: bytes) -> None:
    """Whether an answer is a refusal that tells its reason and nothing else."""
    assert 400 <= status < 500, (status, body[:200])
    assert not LEAK.search(body), body[:500]
    if status in EMPTY and not body:
        return
    told = json.loads(body)
    assert isinstance(told["error"], str)
    assert told["error_type"]


def refused(answer: Answer) -> None:
    """Whether an answer is a harmless refusal."""
    check_refusal(answer.status, answer.body)


async def exchange(server: Server, request: bytes) -> bytes:
    """Everything the server answers to raw bytes, until it closes the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """The statuses of all answers in raw bytes."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
