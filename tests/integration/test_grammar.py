"""The default model under grammars: its outputs always match, whatever happens around them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from tests.live import LiveServer

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", "human"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
        "parent": {"anyOf": [{"$ref": "#/$defs/parent"}, {"type": "null"}]},
    },
    "required": ["name", "age", "kind", "tags", "parent"],
    "additionalProperties": False,
    "$defs": {
        "parent": {
            "type": "object",
            "properties": {"alive": {"type": "boolean"}},
            "required": ["alive"],
            "additionalProperties": False,
        }
    },
}
CHOICES = ["red", "green", "blue", "ultra violet"]
CODE = r"[A-Z]{2}-[0-9]{4}(-[a-z]{3,5})?"
SEEDS = (1, 2, 3, 2**63 + 1)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer() as live:
        yield live


def request(grammar: dict[str, Any] | None, seed: int, max_new_tokens: int = 120) -> dict[str, Any]:
    """A request that samples at temperature 1."""
    return {
        "inputs": "Describe one creature as data.\n",
        "parameters": {
            "grammar": grammar,
            "do_sample": True,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "details": True,
        },
    }


def is_person(text: str) -> None:
    value = json.loads(text)
    jsonschema.validate(value, PERSON)
    assert list(value) == list(PERSON["properties"])  # in the schema's order


def is_choice(text: str) -> None:
    assert text in CHOICES


def is_code(text: str) -> None:
    assert re.fullmatch(CODE, text)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("grammar", "check"),
    [
        ({"type": "json", "value": PERSON}, is_person),
        ({"type": "json_schema", "value": {"name": "person", "schema": json.loads(json.dumps(PERSON))}}, is_person),
        ({"type": "regex", "value": CODE}, is_code),
        ({"type": "choice", "value": CHOICES}, is_choice),
    ],
    ids=["json", "json_schema", "regex", "choice"],
)
def test_every_output_matches_and_ends_by_itself(
    server: LiveServer, grammar: dict[str, Any], check: Callable[[str], None], seed: int
) -> None:
    answer = server.post("/generate", request(grammar, seed))
    check(answer["generated_text"])
    assert answer["details"]["finish_reason"] == "eos_token"


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "p", "schema": PERSON, "strict": True},
                }
            },
            is_person,
        ),
        ({"response_format": {"type": "json_object", "value": PERSON}}, is_person),
        ({"guided_choice": CHOICES}, is_choice),
        ({"guided_regex": CODE}, is_code),
        ({"structured_outputs": {"grammar": 'root ::= "red" | "green"'}}, is_choice),
    ],
    ids=["openai", "tgi", "choice", "regex", "gbnf"],
)
def test_conversations_and_completions_match_too(
    server: LiveServer, fields: dict[str, Any], check: Callable[[str], None]
) -> None:
    messages = [{"role": "user", "content": "Describe one creature as data."}]
    for path, body in (("/v1/chat/completions", {"messages": messages}), ("/v1/completions", {"prompt": "Data:\n"})):
        answer = server.post(path, {**body, **fields, "n": 2, "seed": 5, "max_tokens": 160})
        for choice in answer["choices"]:
            check(choice["message"]["content"] if "message" in choice else choice["text"])
            assert choice["finish_reason"] == "stop"


def test_an_output_that_is_cut_says_so_and_begins_well(server: LiveServer) -> None:
    answer = server.post("/generate", request({"type": "json", "value": PERSON}, 1, max_new_tokens=5))
    assert answer["details"]["finish_reason"] == "length"
    assert answer["generated_text"].startswith("{")


def test_the_most_likely_tokens_are_allowed_ones(server: LiveServer) -> None:
    body = request({"type": "regex", "value": "[0-9]{4}"}, 1)
    body["parameters"]["top_n_tokens"] = 5
    details = server.post("/generate", body)["details"]
    for top in details["top_tokens"][:-1]:
        assert all(token["text"].isdecimal() for token in top)
    assert [token["special"] for token in details["top_tokens"][-1]] == [True]
    assert details["tokens"][-1]["logprob"] == 0.0  # nothing else was possible


def token_ids(events: list[dict[str, Any]]) -> list[int]:
    assert [event["index"] for event in events] == list(range(1, len(events) + 1)), events[-1]
    return [event["token"]["id"] for event in events]


def test_a_killed_engine_changes_no_token_of_a_grammar(server: LiveServer) -> None:
    body = request({"type": "json", "value": PERSON}, 7)
    expected = token_ids(server.stream(body))
    for kill_after in ({1}, {6}, {3, 9}):
        events = []
        with server.open("/generate_stream", body) as response:
            for line in response:
                if line.startswith(b"data:"):
                    events.append(json.loads(line[5:]))
                    if len(events) in kill_after:
                        server.engine().kill()
        assert token_ids(events) == expected
        is_person(events[-1]["generated_text"])


def test_rows_with_and_without_a_grammar_do_not_touch_each_other(server: LiveServer) -> None:
    grammars: list[dict[str, Any] | None] = [
        None,
        {"type": "json", "value": PERSON},
        {"type": "regex", "value": CODE},
        {"type": "choice", "value": CHOICES},
    ]
    bodies = [request(grammar, seed, max_new_tokens=40) for seed in (11, 12, 13) for grammar in grammars]
    alone = [token_ids(server.stream(body)) for body in bodies]
    together: dict[int, list[int]] = {}

    def run(number: int) -> None:
        together[number] = token_ids(server.stream(bodies[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(len(bodies))] == alone


def test_a_bad_grammar_leaves_engine_and_neighbours_alone(server: LiveServer) -> None:
    engine = server.engine().pid
    body = request(None, 3, max_new_tokens=30)
    expected = token_ids(server.stream(body))
    bad = [
        {"type": "regex", "value": "[a-"},
        {"type": "json", "value": {"type": "nonsense"}},
        {"type": "lark", "value": "start: start"},
        {"type": "regex", "value": "(a{100}){101}"},
    ]
    events = []
    with server.open("/generate_stream", body) as response:
        for line in response:
            if line.startswith(b"data:"):
                events.append(json.loads(line[5:]))
                if bad:
                    refusal = server.stream(request(bad.pop(), 1))
                    assert "grammar is not valid" in refusal[0]["error"]
    assert token_ids(events) == expected
    assert server.engine().pid == engine
