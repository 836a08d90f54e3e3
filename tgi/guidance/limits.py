"""What a constraint may ask of the native parser: sizes, depths and references, checked before it sees anything.

The figures are those of spec/reliability.md section 7. Every check reads its input once, without recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

MAX_BYTES = 64 << 10  # of a schema, a grammar, or all choices together
MAX_DEPTH = 64  # objects and arrays inside each other; groups of a regular expression
MAX_PROPERTIES = 2_000
MAX_REGEX_CHARACTERS = 4_096
MAX_REPEATS = 10_000  # the largest count of a repeat, times those of the repeats around it
MAX_CHOICES = 2_000

# Keywords whose value is not a schema. A `$ref` in there is data.
_DATA = frozenset(("const", "enum", "default", "example", "examples"))
# Keywords whose value maps names, which are no keywords, to schemas.
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"))
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_LARK_REPEAT = re.compile(r"~\s*(\d+)(?:\s*\.\.\s*(\d+))?|\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")


class GrammarError(ValueError):
    """A constraint that cannot be used; the text says where in it, and why."""


def check_size(text: str, what: str) -> None:
    """Raises: GrammarError when the text is larger than `MAX_BYTES`."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise GrammarError(f"a {what} may have {MAX_BYTES} bytes, not {size}")


def check_schema(schema: Any) -> None:
    """Judge a decoded JSON schema. Raises: GrammarError naming the place."""
    if not isinstance(schema, dict | bool):
        raise GrammarError("a schema must be an object")
    properties = 0
    for place, keyword, value in _keywords(schema):
        if keyword == "properties" and isinstance(value, dict):
            properties += len(value)
            if properties > MAX_PROPERTIES:
                raise GrammarError(f"a schema may have {MAX_PROPERTIES} properties")
        elif keyword in _REFERENCES and isinstance(value, str):
            if not value.startswith("#"):
                raise GrammarError(f"{place}: `{keyword}` must be local, beginning with `#`")
            if _leads_to_itself(schema, value):
                raise GrammarError(f"{place}: `{keyword}` leads only to itself")
        elif keyword == "pattern" and isinstance(value, str):
            _check_pattern(place, value)
        elif keyword == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _check_pattern(place, pattern)


def check_regex(pattern: str) -> None:
    """Judge a regular expression. Raises: GrammarError."""
    if len(pattern) > MAX_REGEX_CHARACTERS:
        raise GrammarError(f"a regex may have {MAX_REGEX_CHARACTERS} characters, not {len(pattern)}")
    # One entry an open group: the largest product of counts in it so far.
    groups, last, position = [1], 1, 0
    while position < len(pattern):
        character = pattern[position]
        repeat = _REPEAT.match(pattern, position) if character == "{" else None
        if repeat is not None:
            last *= max(1, *(_number(digits) for digits in repeat.groups()))
            if last > MAX_REPEATS:
                raise GrammarError(f"a regex may repeat {MAX_REPEATS} times, at character {position + 1}")
            groups[-1] = max(groups[-1], last)
            position = repeat.end()
            continue
        if character == "(":
            groups.append(1)
            if len(groups) > MAX_DEPTH + 1:
                raise GrammarError(f"a regex may have groups {MAX_DEPTH} deep, at character {position + 1}")
        elif character == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] = max(groups[-1], last)
        elif character not in "*+?":
            last = 1
        position = _end_of_atom(pattern, position)


def check_lark(text: str) -> None:
    """Judge a grammar as text, Lark's or GBNF: conservatively, for what is quoted is counted too.

    Raises: GrammarError naming the line.
    """
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        for character in line:
            if character in "([{":
                depth += 1
                if depth > MAX_DEPTH:
                    raise GrammarError(f"line {number}: brackets may be {MAX_DEPTH} deep")
            elif character in ")]}":
                depth = max(0, depth - 1)
        for repeat in _LARK_REPEAT.finditer(line):
            if max(_number(digits) for digits in repeat.groups()) > MAX_REPEATS:
                raise GrammarError(f"line {number}: a repeat may count to {MAX_REPEATS}")


def _check_pattern(place: str, pattern: str) -> None:
    try:
        check_regex(pattern)
    except GrammarError as error:
        raise GrammarError(f"{place}: {error}") from None


def _number(digits: str | None) -> int:
    # Python refuses to convert thousands of digits; nine are too many here anyway.
    return int(digits[:9]) if digits else 0


def _end_of_atom(pattern: str, position: int) -> int:
    """Where the character, the escape or the class at `position` ends."""
    if pattern[position] == "\\":
        braced = (
            pattern[position + 1 : position + 2] in ("p", "P", "x", "u", "U") and pattern[position + 2 :][:1] == "{"
        )
        return pattern.find("}", position) + 1 or len(pattern) if braced else position + 2
    if pattern[position] != "[":
        return position + 1
    depth = 0
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 1
        elif pattern[position] == "[":
            depth += 1
            # A bracket that comes first, also behind `^`, is a member and closes nothing.
            position += pattern[position + 1 : position + 2] == "^"
            position += pattern[position + 1 : position + 2] == "]"
        elif pattern[position] == "]":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return len(pattern)


def _keywords(schema: Any) -> Iterator[tuple[str, str, Any]]:
    """Every keyword of every schema inside `schema`, with its place as a JSON pointer and its value.

    Raises: GrammarError when something is nested too deeply.
    """
    waiting: list[tuple[str, Any, str, int]] = [("#", schema, "schema", 1)]  # place, value, what it is, depth
    while waiting:
        place, value, kind, depth = waiting.pop()
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise GrammarError(f"a schema may be {MAX_DEPTH} levels deep, {place[:80]}... is deeper")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        children: list[tuple[str, Any]] = [(str(key), child) for key, child in pairs]
        for key, child in children:
            inside = kind
            if isinstance(value, dict) and kind == "schema":
                yield place, key, child
                inside = "data" if key in _DATA else "map" if key in _MAPS else "schema"
            elif kind == "map":
                inside = "schema"
            waiting.append((f"{place}/{key[:64]}", child, inside, depth + 1))


def _leads_to_itself(root: Any, reference: str) -> bool:
    """Whether following a reference, through references and `allOf` alone, comes back to it.

    Such a schema says nothing: no value is ever looked at on the way round.
    """
    waiting, seen = [reference], set()
    while waiting:
        pointer = waiting.pop()
        if pointer in seen:
            continue
        seen.add(pointer)
        parts = [_resolve(root, pointer)]
        while parts:
            part = parts.pop()
            if isinstance(part, dict):
                target = part.get("$ref")
                if target == reference:
                    return True
                if isinstance(target, str):
                    waiting.append(target)
                if isinstance(part.get("allOf"), list):
                    parts.extend(part["allOf"])
    return False


def _resolve(root: Any, pointer: str) -> Any:
    """What a local JSON pointer points at; None when that is nothing, or the reference is an anchor."""
    if pointer != "#" and not pointer.startswith("#/"):
        return None
    value = root
    for step in pointer.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and len(name) < 9 and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
