"""JSON schemas as people mean them: TGI's documentation writes objects without their type, and expects no more keys.

JSON Schema itself says less than one thinks: any text satisfies `{"properties": ...}`, and any keys may be added to an
object. TGI (by way of outlines) makes an object of the first, and only named keys of the second, and so does this: what
is generated always satisfies the schema as it was written, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tgi.guidance.limits import MAX_BYTES

_MAPS = {"properties", "patternProperties", "$defs", "definitions"}  # of names to schemas
_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems", "items"}  # of schemas
_SCHEMAS = {"items", "additionalProperties", "additionalItems"}
_DEFINITIONS = {"$defs", "definitions"}
# Where one of these is, a schema's properties are not all that an object may have.
_OPEN = {"unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "not", "if",
         "$ref", "$dynamicRef", "dependentSchemas"}  # fmt: skip
# Where one of these is, an object may have to match two definitions at once.
_COMPOSING = {"unevaluatedProperties", "allOf", "not", "if", "$dynamicRef", "dependentSchemas"}


def meant_text(schema: str) -> str:
    """`meant` of a schema as text; what is no JSON, or too large, is left as it is for others to refuse."""
    if len(schema) > MAX_BYTES:
        return schema
    try:
        given = msgspec.json.decode(schema)
        read = meant(given)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return schema
    return schema if read == given else msgspec.json.encode(read).decode()


def meant(schema: Any) -> Any:
    """The schema with `type: object` wherever there are `properties` without a type, and no keys beside those.

    Objects stay open that say so, and those whose keys are told in several places.
    """
    composed = any(_COMPOSING & set(part) or ("$ref" in part and "properties" in part) for part in _parts(schema))
    return _meant(schema, close=True, close_definitions=not composed)


def _meant(schema: Any, *, close: bool, close_definitions: bool) -> Any:
    if not isinstance(schema, dict):
        return schema
    close = close and not _OPEN & set(schema)
    read: dict[str, Any] = {}
    for keyword, value in schema.items():
        inside = close_definitions if keyword in _DEFINITIONS else close
        if keyword in _MAPS and isinstance(value, dict):
            value = {
                name: _meant(part, close=inside, close_definitions=close_definitions) for name, part in value.items()
            }
        elif keyword in _LISTS and isinstance(value, list):
            value = [_meant(part, close=False, close_definitions=close_definitions) for part in value]
        elif keyword in _SCHEMAS:
            value = _meant(value, close=inside, close_definitions=close_definitions)
        read[keyword] = value
    properties, required = schema.get("properties"), schema.get("required", [])
    if isinstance(properties, dict):
        if not {"type", "enum", "const"} & set(schema):
            read["type"] = "object"
        if close and isinstance(required, list) and set(map(str, required)) <= set(properties):
            read.setdefault("additionalProperties", False)
    return read


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all that are inside it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            inside = list(value.values())
        else:
            inside = value if keyword in _LISTS and isinstance(value, list) else [value] if keyword in _SCHEMAS else []
        for part in inside:
            yield from _parts(part)
