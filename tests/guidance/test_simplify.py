"""A simplified schema means what it meant before: as a validator says of many values."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import pytest

from tgi.guidance.grammar import Compiler, Constraint
from tgi.guidance.limits import GrammarError
from tgi.guidance.simplify import simplify

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}
CHANGED: list[tuple[Any, Any]] = [
    ({"type": "array", "maxItems": 2.0, "items": {"minLength": 1.0}}, {"type": "array", "maxItems": 2,
                                                                      "items": {"minLength": 1}}),
    ({"uniqueItems": False, "maxLength": 2}, {"maxLength": 2}),
    ({"propertyNames": {}, "not": False, "dependentRequired": {}}, {}),
    ({"if": {"type": "string"}}, {}),
    ({"then": {"type": "string"}, "else": {"const": 1}}, {}),
    ({"minContains": 3, "maxContains": 1}, {}),
    ({"contains": {"const": 1}, "minContains": 0}, {}),
    ({**OBJECT, "unevaluatedProperties": False}, {**OBJECT, "additionalProperties": False}),
    ({**OBJECT, "additionalProperties": {"type": "string"}, "unevaluatedProperties": False},
     {**OBJECT, "additionalProperties": {"type": "string"}}),
    ({"prefixItems": [{"const": 1}], "unevaluatedItems": False}, {"prefixItems": [{"const": 1}], "items": False}),
    ({"items": {"const": 1}, "unevaluatedItems": False}, {"items": {"const": 1}}),
    ({"unevaluatedProperties": True, "unevaluatedItems": {}}, {}),
    ({"$defs": {"x": {"uniqueItems": False}}, "anyOf": [{"if": True}]}, {"$defs": {"x": {}}, "anyOf": [{}]}),
]  # fmt: skip
KEPT: list[Any] = [
    True, False, {}, {"const": {"uniqueItems": False}}, {"enum": [{"if": 1}]}, {"uniqueItems": True},
    {"if": {"const": 1}, "then": False}, {"contains": {"const": 1}}, {"not": {}}, {"maxItems": 2.5},
    {"contains": {"const": 1}, "minContains": 0, "maxContains": 1},
    {"allOf": [OBJECT], "unevaluatedProperties": False}, {"contains": {"const": 1}, "unevaluatedItems": False},
    {"properties": {"uniqueItems": {"const": False}, "if": {}}}, {"uniqueItems": 0},
]  # fmt: skip
VALUES = [
    None, True, False, 0, 1, 2.5, "", "a", "abc", [], [1], [1, 1], [1, 2, 3], ["", "a"], {}, {"a": 1}, {"a": "x"},
    {"b": "x"}, {"a": 1, "b": 2}, {"a": 1, "b": "x"},
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected"), CHANGED, ids=str)
def test_what_says_nothing_is_left_out(schema: Any, expected: Any) -> None:
    before = json.dumps(schema)
    assert json.dumps(simplify(schema)) == json.dumps(expected)
    assert json.dumps(schema) == before
    Compiler().compile(Constraint("json", json.dumps(schema)))


@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_what_says_something_stays(schema: Any) -> None:
    assert simplify(schema) == schema


def test_a_simplified_schema_accepts_what_it_accepted_before() -> None:
    schemas = [schema for schema, _ in CHANGED] + [schema for schema in KEPT if schema not in ({"maxItems": 2.5},)]
    for schema, value in itertools.product(schemas, VALUES):
        if isinstance(schema, dict) and schema.get("uniqueItems") == 0 and schema.get("uniqueItems") is not False:
            continue  # no schema by the specification: only left alone
        validators = [jsonschema.Draft202012Validator(one) for one in (schema, simplify(schema))]
        assert validators[0].is_valid(value) == validators[1].is_valid(value), (schema, value)


def test_what_remains_unknown_is_refused_by_name() -> None:
    with pytest.raises(GrammarError, match="uniqueItems"):
        Compiler().compile(Constraint("json", '{"type": "array", "uniqueItems": true}'))
