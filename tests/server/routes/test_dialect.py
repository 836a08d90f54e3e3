"""TGI's clients get in every chunk what OpenAI's SDKs get once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.server.routes.test_chat import USER
from tests.server.serving import answering, serve
from tgi.server.routes.dialect import Dialect

SDK = {"X-Stainless-Lang": "python"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
CALL = '{"name": "f", "parameters": {"x": 1}}'


def called(*ids: Any) -> list[dict[str, Any]]:
    """A conversation in which calls of these ids were made."""
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    return [*USER, {"role": "assistant", "tool_calls": calls}] if calls else USER


async def deltas(body: dict[str, Any], headers: dict[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """The index and delta of every chunk."""
    async with serve(answering(CALL if "tools" in body else "Hi")) as server:
        events = (await server.post("/v1/chat/completions", {"stream": True} | body, **headers)).events
    return [(choice["index"], choice["delta"]) for event in events[:-1] for choice in event["choices"]]


async def test_every_delta_has_a_role_as_tgis_clients_need() -> None:
    found = await deltas({"messages": USER, "n": 2}, {})
    assert {delta["role"] for _, delta in found} == {"assistant"}


@pytest.mark.parametrize("language", ["python", "js", "go", "java"])
async def test_openais_sdks_get_the_role_in_the_first_delta_of_each_choice(language: str) -> None:
    found = await deltas({"messages": USER, "n": 2}, {"X-Stainless-Lang": language})
    for index in (0, 1):
        roles = [delta.get("role") for one, delta in found if one == index]
        assert roles == ["assistant", *[None] * (len(roles) - 1)]
        assert len(roles) > 1


@pytest.mark.parametrize(
    ("earlier", "expected"), [((), "0"), (("0",), "1"), (("3", "1"), "4"), (("call_a", "1"), None), ((None,), None)]
)
async def test_calls_are_counted_on_from_those_of_the_conversation(earlier: Any, expected: str | None) -> None:
    body = {"messages": called(*earlier), "tools": [TOOL], "tool_choice": "required"}
    streamed = {delta["tool_calls"][0]["id"] for _, delta in await deltas(body, {})}
    assert len(streamed) == 1
    async with serve(answering(CALL)) as server:
        (choice,) = (await server.post("/v1/chat/completions", body)).json["choices"]
    (call,) = choice["message"]["tool_calls"]
    if expected is None:
        assert all(len(id) == 9 and id.isalnum() for id in (*streamed, call["id"]))
    else:
        assert (streamed, call["id"]) == ({expected}, expected)


async def test_openais_sdks_get_an_id_that_no_other_call_has_and_get_it_once() -> None:
    body = {"messages": called("0"), "tools": [TOOL], "tool_choice": "required"}
    calls = [delta["tool_calls"][0] for _, delta in await deltas(body, SDK)]
    assert len(calls[0]["id"]) == 9
    assert all("id" not in call for call in calls[1:])


async def test_mistrals_templates_take_nine_characters_and_get_them() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}{# [TOOL_CALLS] [ #}"
    call = '[TOOL_CALLS] [{"name": "f", "arguments": {}}]'
    body = {"messages": USER, "tools": [TOOL], "tool_choice": "required"}
    async with serve(answering(call), template=template) as server:
        (choice,) = (await server.post("/v1/chat/completions", body)).json["choices"]
    assert len(choice["message"]["tool_calls"][0]["id"]) == 9


def test_drawn_ids_differ() -> None:
    assert len(set(itertools.islice(Dialect().call_ids(), 100))) == 100
