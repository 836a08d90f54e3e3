"""JSON schemas, without what says nothing: keywords that llguidance does not know, where another one means the same.

Every change keeps the meaning, by the words of JSON Schema 2020-12; what is left unknown is refused later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
_COUNTS = (
    "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
_IN_PLACE = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "not")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    "items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "contains",
    "propertyNames", "not", "if", "then", "else",
)  # fmt: skip


def simplify(schema: Any) -> Any:
    """A schema that means the same, without keywords that have no effect. It may not be nested without end."""
    if not isinstance(schema, dict):
        return schema
    result: Schema = {}
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            result[keyword] = {name: simplify(part) for name, part in value.items()}
        elif keyword in _LISTS and isinstance(value, list):
            result[keyword] = [simplify(part) for part in value]
        elif keyword in _SINGLE:
            result[keyword] = [simplify(part) for part in value] if isinstance(value, list) else simplify(value)
        elif keyword in _COUNTS and isinstance(value, float) and value.is_integer():
            result[keyword] = int(value)  # 2.0 is the integer 2
        else:
            result[keyword] = value
    for change in _CHANGES:
        change(result)
    return result


# Values that allow everything, as JSON: for Python, 0 is False and 1 is True.
_HARMLESS: dict[str, tuple[str, ...]] = {
    "uniqueItems": ("false",), "not": ("false",), "propertyNames": ("true", "{}"), "dependentRequired": ("{}",),
    "dependentSchemas": ("{}",), "dependencies": ("{}",), "unevaluatedItems": ("true", "{}"),
    "unevaluatedProperties": ("true", "{}"),
}  # fmt: skip


def _drop_what_is_always_true(schema: Schema) -> None:
    for keyword, values in _HARMLESS.items():
        if keyword in schema and json.dumps(schema[keyword]) in values:
            del schema[keyword]


def _drop_halves(schema: Schema) -> None:
    """A condition without a consequence, consequences without a condition, and counts of nothing."""
    if "if" not in schema or not {"then", "else"} & schema.keys():
        for keyword in ("if", "then", "else"):
            schema.pop(keyword, None)
    if "contains" not in schema or (schema.get("minContains") == 0 and "maxContains" not in schema):
        for keyword in ("contains", "minContains", "maxContains"):
            schema.pop(keyword, None)


def _say_what_is_left_over(schema: Schema) -> None:
    """`unevaluated...` where nothing but its neighbours evaluates: it is what `additionalProperties` or `items` is."""
    if set(_IN_PLACE) & schema.keys():
        return
    for left_over, plain in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if left_over in schema and not (plain == "items" and "contains" in schema):
            value = schema.pop(left_over)
            schema.setdefault(plain, value)  # where there is one already, nothing is left over


_CHANGES: tuple[Callable[[Schema], None], ...] = (_drop_what_is_always_true, _drop_halves, _say_what_is_left_over)
