"""Schemas are read as TGI's users mean them, and what follows satisfies them as written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tgi.guidance.limits import MAX_BYTES
from tgi.server.json_schemas import meant, meant_text

CLOSED = {"additionalProperties": False}
OF_TGIS_DOCUMENTATION = {
    "properties": {
        "location": {"type": "string"}, "activity": {"type": "string"},
        "animals_seen": {"type": "integer", "minimum": 1, "maximum": 5},
        "animals": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["location", "activity", "animals_seen", "animals"],
}  # fmt: skip
A: dict[str, Any] = {"properties": {"a": {}}}
READ_A = A | {"type": "object"} | CLOSED


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (OF_TGIS_DOCUMENTATION, OF_TGIS_DOCUMENTATION | {"type": "object"} | CLOSED),
        ({"properties": {"a": A}}, {"properties": {"a": READ_A}, "type": "object"} | CLOSED),
        ({"type": "array", "items": A}, {"type": "array", "items": READ_A}),
        ({"$ref": "#/$defs/X", "$defs": {"X": A}}, {"$ref": "#/$defs/X", "$defs": {"X": READ_A}}),
        # A property may have the name of a keyword.
        ({"properties": {"properties": {"type": "string"}}},
         {"properties": {"properties": {"type": "string"}}, "type": "object"} | CLOSED),
    ],
)  # fmt: skip
def test_properties_are_those_of_an_object_that_has_no_others(written: Any, read: Any) -> None:
    assert meant(written) == read


@pytest.mark.parametrize(
    "written",
    [
        {}, {"type": "object"}, {"type": "string"}, True, 5,
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"enum": [1], "properties": {}, "additionalProperties": {}},
        {"const": {"properties": {}}},
        {"allOf": [{"$ref": "#/$defs/X"}], "$defs": {"X": {"type": "object", "properties": {"a": {}}}}},
        {"$ref": "#/$defs/X", "type": "object", "properties": {"b": {}},
         "$defs": {"X": {"type": "object", "properties": {"a": {}}}}},
    ],
)  # fmt: skip
def test_what_says_more_is_read_as_it_is_written(written: Any) -> None:
    assert meant(written) == written


def test_alternatives_are_objects_but_stay_open() -> None:
    assert meant({"anyOf": [A, {"type": "null"}]}) == {"anyOf": [A | {"type": "object"}, {"type": "null"}]}


def test_the_order_of_keys_is_the_order_of_the_output() -> None:
    names = list(OF_TGIS_DOCUMENTATION["properties"])
    assert list(json.loads(meant_text(json.dumps(OF_TGIS_DOCUMENTATION)))["properties"]) == names


@pytest.mark.parametrize("text", ["{", "[" * 5000, '{"type": "object"}', '"\ud800"', json.dumps(A) + " " * MAX_BYTES])
def test_text_that_needs_no_other_reading_stays_as_it_is(text: str) -> None:
    assert meant_text(text) == text
