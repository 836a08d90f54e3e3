"""V15: numbers that are too large, too small, or no integers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.security.harmless import refused
from tests.server.serving import answering, serve
from tgi.server.schemas import ChatRequest, CompletionRequest, GenerateParameters

NO_INTEGERS = ["1.5", "true", '"7"', "1e400", "18446744073709551617", "-1", "[1]", "9" * 5000, "NaN", "1.0"]
UNUSUAL = ["0", "2147483648", "9223372036854775808", "null"]


def integer_fields(type: type) -> list[str]:
    """The fields of a request that are integers, or absent."""
    fields = msgspec.inspect.type_info(type).fields  # type: ignore[attr-defined]
    found = []
    for field in fields:
        kinds = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
        if all(isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.NoneType) for kind in kinds):
            found.append(field.encode_name)
    return found


def bodies(field: str, path: str, value: str) -> bytes:
    """A request with one field set to the text `value`."""
    head: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    if path == "/generate":
        return b'{"inputs":"x","parameters":{"%s":%s}}' % (field.encode(), value.encode())
    if path == "/v1/completions":
        head = {"prompt": "x"}
    return json.dumps(head).encode()[:-1] + b',"%s":%s}' % (field.encode(), value.encode())


CASES = [
    (path, field)
    for path, type in (
        ("/generate", GenerateParameters),
        ("/v1/chat/completions", ChatRequest),
        ("/v1/completions", CompletionRequest),
    )
    for field in integer_fields(type)
]


def test_there_are_fields_to_try() -> None:
    assert {("/generate", "max_new_tokens"), ("/generate", "seed"), ("/v1/completions", "n")} <= set(CASES)


@pytest.mark.parametrize(("path", "field"), CASES)
async def test_only_integers_are_integers(path: str, field: str) -> None:
    async with serve(answering("a")) as server:
        for value in NO_INTEGERS:
            if (field, value) == ("top_k", "-1") and path != "/generate":
                continue  # "off" in the words of other servers
            refused(await server.post(path, bodies(field, path, value)))
        for value in UNUSUAL:
            answer = await server.post(path, bodies(field, path, value))
            if answer.status != 200:
                refused(answer)
        assert (await server.post(path, bodies(field, path, "null"))).status == 200  # as if it were not there
        assert server.services.inference.idle


@pytest.mark.parametrize("tokens", ["[1.0]", "[true]", "[-1]", "[4294967296]", '["1"]', "[[1]]", "[null]", "{}"])
async def test_ids_are_integers_too(tokens: str) -> None:
    async with serve() as server:
        refused(await server.post("/detokenize", b'{"tokens":%s}' % tokens.encode()))
