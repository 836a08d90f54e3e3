"""V16: JSON that is deep, broken, or means something else to somebody else."""

from __future__ import annotations

import pytest

from tests.security.harmless import refused
from tests.server.serving import answering, serve

ROUTES = ("/", "/generate", "/v1/chat/completions", "/v1/completions", "/tokenize", "/chat_tokenize", "/detokenize",
          "/invocations", "/vertex")  # fmt: skip
HOSTILE = {
    "deep array": b"[" * 100_000,
    "deep array, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep and unknown": b'{"inputs":"x","unknown":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "NaN": b'{"inputs":"x","parameters":{"temperature":NaN}}',
    "infinity": b'{"inputs":"x","parameters":{"temperature":Infinity}}',
    "infinity by size": b'{"inputs":"x","parameters":{"temperature":1e400}}',
    "a lone surrogate": b'{"inputs":"\\ud800"}',
    "half a pair": b'{"inputs":"\\udc00\\ud800"}',
    "not UTF-8": b'{"inputs":"\xff\xfe"}',
    "an overlong NUL": b'{"inputs":"\xc0\x80"}',
    "a byte order mark": b'\xef\xbb\xbf{"inputs":"x"}',
    "UTF-16": '{"inputs":"x"}'.encode("utf-16"),
    "two values": b'{"inputs":"x"}{"inputs":"y"}',
    "a comment": b'{"inputs":"x"} // y',
    "single quotes": b"{'inputs':'x'}",
    "a trailing comma": b'{"inputs":"x",}',
    "control characters": b'{"inputs":"\x01"}',
    "nothing": b"",
    "null": b"null",
    "a string": b'"inputs"',
    "cut short": b'{"inputs":"x',
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_json_is_refused_by_every_route(name: str) -> None:
    async with serve(answering("a")) as server:
        for path in ROUTES:
            refused(await server.post(path, HOSTILE[name]))
        streamed = await server.post("/generate_stream", HOSTILE[name])
        refused(streamed)  # before its stream begins
        assert server.supervisor.requests == []


async def test_the_last_of_repeated_keys_counts_once() -> None:
    async with serve(answering("a")) as server:
        answer = await server.post("/generate", b'{"inputs":"first","inputs":"second"}')
        assert answer.status == 200
        assert bytes(server.supervisor.requests[0].prompt_ids[::4]) == b"second"


async def test_nul_is_a_character_like_others() -> None:
    async with serve(answering("a")) as server:
        assert (await server.post("/generate", b'{"inputs":"a\\u0000b"}')).status == 200
