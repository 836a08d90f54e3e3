"""What a request may want of its tools, and what becomes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from tgi.errors import ToolError
from tgi.guidance.grammar import Compiler
from tgi.server.grammars import Grammars, as_constraint
from tgi.server.schemas import ChatRequest, Grammar, Message, parse
from tgi.server.tool_formats import FORMATS
from tgi.server.tools import MAX_TOOLS, ToolPlan, plan_tools

USER = [{"role": "user", "content": "x"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {"c": {}}}},
}
NOW = {"type": "function", "function": {"name": "now"}}


def request(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps({"messages": USER} | fields).encode())


def planned(**fields: Any) -> ToolPlan:
    plan = plan_tools(request(**{"tools": [WEATHER, NOW]} | fields))
    assert plan is not None
    return plan


async def compile_here(grammar: Grammar) -> str:
    return Compiler().compile(as_constraint(grammar))


@pytest.mark.parametrize(
    ("choice", "names", "forced", "parallel"),
    [
        (None, ["weather", "now"], False, True),
        ("auto", ["weather", "now"], False, True),
        ("required", ["weather", "now"], True, True),
        ("now", ["now"], True, False),
        ({"type": "function", "function": {"name": "now"}}, ["now"], True, False),
        ({"function": {"name": "weather"}}, ["weather"], True, False),
    ],
)
def test_a_choice_of_tools(choice: Any, names: list[str], forced: bool, parallel: bool) -> None:
    plan = planned(tool_choice=choice)
    assert (plan.names, plan.forced, plan.parallel) == (names, forced, parallel)


@pytest.mark.parametrize(("asked", "parallel"), [(None, True), (True, True), (False, False)])
def test_calls_may_come_several_at_once_unless_refused(asked: bool | None, parallel: bool) -> None:
    assert planned(parallel_tool_calls=asked).parallel is parallel


@pytest.mark.parametrize(
    "fields", [{}, {"tools": []}, {"tools": None}, {"tools": [], "tool_choice": "auto"},
               {"tools": [WEATHER], "tool_choice": "none"}, {"tools": [{}], "tool_choice": "none"}]
)  # fmt: skip
def test_without_tools_to_call_there_is_no_plan(fields: dict[str, Any]) -> None:
    assert plan_tools(request(**fields)) is None


def named(name: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | more}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [WEATHER], "tool_choice": "now"}, "Tool with name now not found"),
        ({"tools": [NOW], "tool_choice": named("x")}, "Tool with name x not found"),
        ({"tool_choice": "weather"}, "Tool with name weather not found"),
        ({"tool_choice": "required"}, "`tool_choice` is `required`, and there are no `tools`"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "`tool_choice` must be"),
        ({"tools": [WEATHER], "tool_choice": {"function": {}}}, "`tool_choice.function.name` must be a string"),
        ({"tools": [named(f"f{n}") for n in range(MAX_TOOLS + 1)]}, "`tools` supports up to 128 tools. Given: 129"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "`tools` must be of type `function`"),
        ({"tools": [named("a b")]}, "names of 1 to 64 letters"),
        ({"tools": [named("a" * 65)]}, "names of 1 to 64 letters"),
        ({"tools": [named(5)]}, "names of 1 to 64 letters"),
        ({"tools": [NOW, NOW]}, "two tools have the name `now`"),
        ({"tools": [named("f", parameters=5)]}, "the parameters of `f` must be a JSON schema of an object"),
        ({"tools": [named("f", parameters={"type": "array"})]}, "must be a JSON schema of an object"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ToolError) as refused:
        plan_tools(request(**fields))
    assert reason in str(refused.value)
    assert (refused.value.status, refused.value.error_type) == (422, "tool_error")


def test_templates_see_tools_as_they_were_given_with_what_many_of_them_need() -> None:
    given = {"type": "function", "function": {"strict": None, "arguments": {"type": "object"}, "name": "f"}}
    (tool,) = planned(tools=[given]).tools
    assert json.dumps(tool["function"]) == '{"parameters": {"type": "object"}, "name": "f", "description": ""}'
    assert planned(tools=[WEATHER]).tools == (WEATHER,)


def test_the_model_is_told_of_the_tools_in_words_when_its_template_does_not() -> None:
    plan = planned()
    assert '[{"name": "weather", ' in plan.words(shown_by_template=False)
    assert "weather" not in plan.words(shown_by_template=True)
    assert '"parameters"' in plan.words(shown_by_template=True)
    assert plan.words(shown_by_template=True) != planned(tool_choice="required").words(shown_by_template=True)
    assert planned(tool_prompt="Call!").words(shown_by_template=True) == "\n---\nCall!"
    assert planned(tool_prompt="").words(shown_by_template=True) == plan.words(shown_by_template=True)


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
async def test_every_format_has_a_grammar_that_builds(row: Any) -> None:
    text = await replace(planned(), row=row).grammar(compile_here, {})
    parts = json.loads(text)["grammars"]
    assert [part.get("name") for part in parts] == [None, "tool_0", "tool_1"]
    assert Compiler()._reason(text) is None


async def test_objects_are_closed_where_that_keeps_every_needed_value_valid() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}}
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"properties": {"a": inner, "l": {"type": "array", "items": inner}}}, {"a": {"z": 1}}),
        ({"type": "object", "properties": {}}, {"z": 1}),
    ]
    for parameters, open_value in cases:
        text = await planned(tools=[named("f", parameters=parameters)]).grammar(compile_here, {})
        schema = json.loads(text)["grammars"][1]["json_schema"]
        jsonschema.validate(open_value, {"type": "object", **parameters})
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(open_value, schema)
    for parameters in (
        {"type": "object", "required": ["z"], "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}}, "allOf": [{"required": ["z"]}]},
    ):
        text = await planned(tools=[named("f", parameters=parameters)]).grammar(compile_here, {})
        jsonschema.validate({"z": 1}, json.loads(text)["grammars"][1]["json_schema"])


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [({"properties": {"a": {"type": "string", "pattern": 5}}}, "the parameters of `f`: grammar is not valid: "),
     ({"properties": {"a": {"$ref": "http://x"}}}, "must be local"),
     ({"properties": {"a": {"type": "nonsense"}}}, "the parameters of `f`: ")],
)  # fmt: skip
async def test_parameters_that_are_no_schema_are_refused_and_the_tool_is_named(
    parameters: dict[str, Any], reason: str
) -> None:
    grammars = Grammars()
    try:
        with pytest.raises(ToolError) as refused:
            await planned(tools=[named("f", parameters=parameters)]).grammar(grammars.compile, {})
    finally:
        grammars.close()
    assert reason in str(refused.value)


def test_messages_with_calls_are_accepted_as_openai_and_tgi_send_them() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    sent = [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "r", "tool_call_id": "1"},
    ]
    assert [type(message) for message in request(messages=sent).messages] == [Message, Message]
