"""How requests ask for grammars, and how those are compiled without harm to anybody else."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psutil
import pytest

from tests.server.serving import Answer, Server, answering, serve
from tgi.config import Limits
from tgi.errors import ValidationError
from tgi.server import grammars
from tgi.server.grammar_worker import PROCESS_NAME
from tgi.server.grammars import Grammars, as_constraint, asked_grammar
from tgi.server.schemas import CompletionRequest, Grammar

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "x"}]
REFUSED = "Input validation error: grammar is not valid: "


@pytest.fixture
async def compiler() -> AsyncIterator[Grammars]:
    made = Grammars()
    yield made
    made.close()


@pytest.fixture(scope="module")
def loose() -> Limits:
    return Limits(max_concurrent_requests=16)


async def generate(server: Server, grammar: Any, **parameters: Any) -> Answer:
    return await server.post("/generate", {"inputs": "x", "parameters": {"grammar": grammar, **parameters}})


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.name() == PROCESS_NAME]


def used(grammar: str) -> Any:
    """The first grammar in llguidance's JSON."""
    return json.loads(grammar)["grammars"][0]


@pytest.mark.parametrize(
    ("grammar", "kind", "text"),
    [
        ({"type": "json", "value": OBJECT}, "json", json.dumps(OBJECT, separators=(",", ":"))),
        ({"type": "json_object", "value": OBJECT}, "json", json.dumps(OBJECT, separators=(",", ":"))),
        ({"type": "json", "value": json.dumps(OBJECT)}, "json", json.dumps(OBJECT)),
        ({"type": "json_schema", "value": {"name": "x", "schema": {"b": 1, "a": 2}}}, "json", '{"b":1,"a":2}'),
        ({"type": "json_schema", "value": {"schema": {}, "strict": True, "more": 1}}, "json", "{}"),
        ({"type": "regex", "value": "a+"}, "regex", "a+"),
        ({"type": "choice", "value": ["a", "é"]}, "choice", '["a","é"]'),
        ({"type": "lark", "value": 'start: "a"'}, "lark", 'start: "a"'),
    ],
)
def test_every_form_of_a_grammar_is_understood(grammar: Any, kind: str, text: str) -> None:
    constraint = as_constraint(msgspec.convert(grammar, Grammar))
    assert (constraint.kind, constraint.text) == (kind, text)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ("json", '{"type":"object"}')),
        ({"response_format": {"type": "json_object", "value": OBJECT}}, ("json_object", OBJECT)),
        ({"response_format": {"type": "json_object", "schema": OBJECT}}, ("json_object", OBJECT)),
        ({"response_format": {"type": "json", "value": OBJECT}}, ("json", OBJECT)),
        ({"response_format": {"type": "choice", "value": ["a", "b"]}}, ("choice", ["a", "b"])),
        ({"response_format": {"type": "lark", "value": 'start: "a"'}}, ("lark", 'start: "a"')),
        ({"response_format": {"type": "regex", "value": "a"}}, ("regex", "a")),
        (
            {"response_format": {"type": "json_schema", "value": {"schema": OBJECT}}},
            ("json_schema", {"schema": OBJECT}),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": OBJECT, "strict": True},
                }
            },
            ("json_schema", {"name": "x", "schema": OBJECT, "strict": True}),
        ),
        ({"guided_json": OBJECT}, ("json", OBJECT)),
        ({"guided_json": json.dumps(OBJECT)}, ("json", json.dumps(OBJECT))),
        ({"guided_regex": "a"}, ("regex", "a")),
        ({"guided_choice": ["a", "b"]}, ("choice", ["a", "b"])),
        ({"guided_grammar": "root ::= [a]"}, ("lark", "root ::= [a]")),
        ({"structured_outputs": {"json": OBJECT}}, ("json", OBJECT)),
        ({"structured_outputs": {"regex": "a"}}, ("regex", "a")),
        ({"structured_outputs": {"choice": ["a"]}}, ("choice", ["a"])),
        ({"structured_outputs": {"grammar": "start: a"}}, ("lark", "start: a")),
        ({"structured_outputs": {"json_object": True}}, ("json", '{"type":"object"}')),
        ({"structured_outputs": {}}, None),
    ],
)
def test_openais_and_vllms_fields_say_the_same_things(fields: Any, expected: Any) -> None:
    found = asked_grammar(msgspec.convert({"prompt": "x", **fields}, CompletionRequest))
    assert (found and (found.type, found.value)) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"guided_json": OBJECT, "guided_regex": "a"}, "only one of"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "only one of"),
        ({"structured_outputs": {"json": OBJECT, "regex": "a"}}, "only one of"),
        ({"structured_outputs": {"structural_tag": "x"}}, "`structured_outputs.structural_tag` is not supported"),
        ({"guided_whitespace_pattern": "x"}, "whitespace_pattern` is not supported"),
        ({"response_format": {"type": "json_schema"}}, "`response_format` of type `json_schema` lacks its `value`"),
        ({"response_format": {"type": "regex", "value": "a", "schema": OBJECT}}, "goes with the type `json_object`"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "missing field `schema`"),
        ({"response_format": {"type": "regex", "value": 3}}, "must be a string"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(reason)):
        asked_grammar(msgspec.convert({"prompt": "x", **fields}, CompletionRequest))


async def test_a_grammar_reaches_the_engine(loose: Limits) -> None:
    async with serve(answering("ab"), limits=loose) as server:
        assert (await generate(server, {"type": "regex", "value": "[ab]+"})).status == 200
        chat = {"messages": MESSAGES, "response_format": {"type": "json_object", "value": OBJECT}}
        assert (await server.post("/v1/chat/completions", chat)).status == 200
        completion = {"prompt": ["x", "y"], "guided_choice": ["a", "b"], "max_tokens": 3}
        assert (await server.post("/v1/completions", completion)).status == 200
        assert (await server.post("/generate", {"inputs": "x"})).status == 200
        asked = [request.sampling.grammar for request in server.supervisor.requests]
        assert used(asked[0])["lark_grammar"] is not None
        assert used(asked[1])["json_schema"]["properties"] == OBJECT["properties"]
        assert asked[2] == asked[3] != ""
        assert asked[4] == ""
        assert await server.metric("tgi_grammar_compile_duration_count") == 3
        assert await server.metric("tgi_grammar_cache_bytes") > 100
        assert len(workers()) == 1
    assert not workers()


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (
            {"type": "nonsense", "value": 1},
            "Failed to deserialize the JSON body into the target type: parameters.grammar",
        ),
        ({"type": "json"}, "parameters.grammar: missing field `value`"),
        ({"value": {}}, "parameters.grammar: missing field `type`"),
        ({"type": "regex", "value": 3}, "`value` of type `regex` must be a string"),
        ({"type": "json_schema", "value": {"name": "x"}}, "missing field `schema`"),
        ({"type": "json", "value": 3}, "Input validation error: grammar is not supported"),
        ({"type": "json", "value": [1]}, "Input validation error: grammar is not supported"),
        ({"type": "json", "value": {"type": "nonsense"}}, REFUSED + "#: Invalid type: nonsense"),
        ({"type": "json", "value": "{"}, REFUSED + "the schema is not JSON"),
        ({"type": "json", "value": {"enum": []}}, REFUSED + "#: Unsatisfiable schema"),
        ({"type": "json", "value": {"$ref": "#"}}, REFUSED + "#: `$ref` leads only to itself"),
        ({"type": "json", "value": "x" * 70_000}, REFUSED + "a schema may have 65536 bytes, not 70000"),
        ({"type": "regex", "value": "[a-"}, REFUSED + "unclosed character class, at character 1"),
        ({"type": "regex", "value": "a{1,100000}"}, REFUSED + "a regex may repeat 10000 times"),
        ({"type": "regex", "value": "(" * 30_000 + ")" * 30_000}, REFUSED + "a regex may have 4096 characters"),
        ({"type": "lark", "value": "start: " + "(" * 30_000 + ")" * 30_000}, REFUSED + "line 1: brackets may be 64"),
        ({"type": "choice", "value": []}, REFUSED + "the list of choices is empty"),
    ],
)
async def test_a_bad_grammar_is_refused_with_422_and_its_place(loose: Limits, grammar: Any, text: str) -> None:
    async with serve(answering("x"), limits=loose) as server:
        answer = await generate(server, grammar)
        assert (answer.status, answer.json["error_type"]) == (422, "validation")
        assert text in answer.json["error"]
        assert not server.supervisor.requests


async def test_a_schema_nested_beyond_all_reason_is_no_request(loose: Limits) -> None:
    schema = '{"items":' * 5_000 + "{}" + "}" * 5_000
    body = '{"inputs":"x","parameters":{"grammar":{"type":"json","value":' + schema + "}}}"
    async with serve(answering("x"), limits=loose) as server:
        assert (await server.post("/generate", body.encode())).status == 400


async def test_lengths_are_judged_before_grammars_as_in_tgi(loose: Limits) -> None:
    async with serve(answering("x"), limits=loose, max_total_tokens=16) as server:
        answer = await generate(server, {"type": "regex", "value": "["}, max_new_tokens=64)
        assert "`inputs` tokens + `max_new_tokens`" in answer.json["error"]


async def test_grammars_can_be_switched_off() -> None:
    async with serve(answering("x"), limits=Limits(disable_grammar_support=True)) as server:
        for grammar in ({"type": "regex", "value": "a"}, {"type": "regex", "value": "["}):
            answer = await generate(server, grammar)
            assert answer.status == 422
            assert answer.json["error"] == "Input validation error: grammar is not supported"
        assert (await server.post("/generate", {"inputs": "x"})).status == 200


async def test_grammars_and_tools_exclude_each_other(loose: Limits) -> None:
    async with serve(answering("x"), limits=loose) as server:
        for fields in ({"response_format": {"type": "json_object"}}, {"guided_regex": "a"}):
            answer = await server.post("/v1/chat/completions", {"messages": MESSAGES, "tools": [], **fields})
            assert answer.status == 422
            assert answer.json["error"] == "Tool error: Grammar and tools are mutually exclusive"


async def test_the_same_grammar_is_compiled_once(compiler: Grammars) -> None:
    asked = Grammar(type="regex", value="a+")
    first = await asyncio.gather(*(compiler.compile(asked) for _ in range(4)))
    assert len(set(first)) == 1
    for worker in workers():
        worker.kill()
    assert await compiler.compile(asked) == first[0]
    assert compiler.cached_bytes == len("a+") + len(first[0])


async def test_the_cache_is_bounded(compiler: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "CACHED_GRAMMARS", 4)
    made = [await compiler.compile(Grammar(type="regex", value=f"a{number}")) for number in range(9)]
    assert compiler.cached_bytes == sum(len(grammar) + 2 for grammar in made[-4:])
    monkeypatch.setattr(grammars, "CACHED_BYTES", 10)
    await compiler.compile(Grammar(type="regex", value="b"))
    assert compiler.cached_bytes == 0


async def test_a_killed_worker_is_replaced_and_nobody_notices(compiler: Grammars) -> None:
    await compiler.compile(Grammar(type="regex", value="a"))
    (before,) = workers()
    before.send_signal(signal.SIGSTOP)
    waiting = asyncio.create_task(compiler.compile(Grammar(type="regex", value="b")))
    await asyncio.sleep(0)
    before.kill()
    assert await waiting
    (after,) = workers()
    assert after.pid != before.pid


async def test_a_grammar_that_takes_too_long_costs_only_its_own_request(compiler: Grammars) -> None:
    await compiler.compile(Grammar(type="regex", value="a"))
    (worker,) = workers()
    worker.send_signal(signal.SIGSTOP)
    slow = asyncio.create_task(compiler.compile(Grammar(type="regex", value="slow")))
    await asyncio.sleep(0)
    worker.send_signal(signal.SIGPROF)  # what the kernel sends when the time is over
    worker.send_signal(signal.SIGCONT)
    with pytest.raises(ValidationError, match="compiling it takes more than 2 s"):
        await slow
    with pytest.raises(ValidationError, match="compiling it takes more than 2 s"):
        await compiler.compile(Grammar(type="regex", value="slow"))  # not tried again
    assert await compiler.compile(Grammar(type="regex", value="b"))


async def test_a_worker_that_never_answers_is_given_up(compiler: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    await compiler.compile(Grammar(type="regex", value="a"))
    monkeypatch.setattr(grammars, "WALL_S", 0.05)
    workers()[0].send_signal(signal.SIGSTOP)
    with pytest.raises(ValidationError, match="takes more than"):
        await compiler.compile(Grammar(type="regex", value="b"))
    assert not workers()


async def test_a_client_that_leaves_takes_nobodys_answer(compiler: Grammars) -> None:
    await compiler.compile(Grammar(type="regex", value="a"))
    (worker,) = workers()
    worker.send_signal(signal.SIGSTOP)
    left = asyncio.create_task(compiler.compile(Grammar(type="regex", value="b")))
    for _ in range(9):  # its question is on the way to the worker
        await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    worker.send_signal(signal.SIGCONT)
    c, b = await asyncio.gather(
        compiler.compile(Grammar(type="regex", value="c")), compiler.compile(Grammar(type="regex", value="b"))
    )
    assert "c" in used(c)["lark_grammar"]
    assert "b" in used(b)["lark_grammar"]


async def test_what_is_asked_for_often_is_remembered_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "CACHED_GRAMMARS", 2)
    compiled: list[float] = []
    compiler = Grammars(on_compiled=lambda seconds, cached: compiled.append(seconds))
    for pattern in ("often", "once", "often", "other", "often"):
        await compiler.compile(Grammar(type="regex", value=pattern))
    assert len(compiled) == 3
    compiler.close()
