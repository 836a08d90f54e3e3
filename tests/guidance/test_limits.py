"""What is refused before the native parser sees it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tgi.guidance.limits import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_PROPERTIES,
    MAX_REGEX_CHARACTERS,
    GrammarError,
    check_lark,
    check_regex,
    check_schema,
    check_size,
)


def nested(levels: int) -> dict[str, Any]:
    """A schema whose deepest object is `levels` deep."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def test_a_text_may_have_64_kib_of_utf8() -> None:
    check_size("é" * (MAX_BYTES // 2), "schema")
    with pytest.raises(GrammarError, match=f"a schema may have {MAX_BYTES} bytes, not {MAX_BYTES + 2}"):
        check_size("é" * (MAX_BYTES // 2 + 1), "schema")


def test_a_schema_may_be_so_deep() -> None:
    check_schema(nested(MAX_DEPTH))
    with pytest.raises(GrammarError, match=f"{MAX_DEPTH} levels deep, #/items/items"):
        check_schema(nested(MAX_DEPTH + 1))


def test_properties_are_counted_over_the_whole_schema() -> None:
    half = {f"p{index}": {} for index in range(MAX_PROPERTIES // 2)}
    check_schema({"properties": {**half, "q": {}}, "items": {"properties": dict(list(half.items())[1:])}})
    with pytest.raises(GrammarError, match=str(MAX_PROPERTIES)):
        check_schema({"properties": {**half, "q": {}}, "items": {"properties": half}})


@pytest.mark.parametrize("schema", [3, "x", None, [], [{}]])
def test_a_schema_is_an_object(schema: Any) -> None:
    with pytest.raises(GrammarError, match="must be an object"):
        check_schema(schema)


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$recursiveRef"])
@pytest.mark.parametrize("target", ["http://example.org/schema", "other.json#/a", "", "/etc/passwd"])
def test_only_local_references_are_followed(keyword: str, target: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(f"#/items: `{keyword}` must be local")):
        check_schema({"items": {keyword: target}})


def test_names_and_data_are_no_keywords() -> None:
    check_schema(
        {
            "properties": {"$ref": {"type": "string"}, "const": {"$ref": "#/$defs/a"}, "pattern": {}},
            "$defs": {"a": {"const": {"$ref": "http://example.org"}}, "pattern": {"enum": [{"pattern": "a{99999}"}]}},
        }
    )


def test_a_reference_below_a_property_called_like_a_keyword_is_seen() -> None:
    with pytest.raises(GrammarError, match="#/properties/const"):
        check_schema({"properties": {"const": {"$ref": "http://example.org"}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"type": "string"}, {"$ref": "#/$defs/a"}]}}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"allOf": [{"allOf": [{"$ref": "#/$defs/a~1b"}]}]}}},
    ],
)
def test_a_reference_that_leads_only_to_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="leads only to itself"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"next": {"$ref": "#"}}},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"items": {"$ref": "#"}}}},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}},
        {"prefixItems": [{"$ref": "#/prefixItems/1"}, {"type": "string"}]},
    ],
)
def test_other_recursion_is_none_of_its_business(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    "pattern",
    ["x" * MAX_REGEX_CHARACTERS, "a{10000}", "(a{100}b){100}", r"\{99999}", "[{]{3}", "[]{99999}]", r"[\]{99999}]",
     r"\p{Greek}{3}", r"\x{10FFFF}", "a{,}", "(a{5000})(b{5000})", "(" * MAX_DEPTH + ")" * MAX_DEPTH],
)  # fmt: skip
def test_reasonable_patterns_pass(pattern: str) -> None:
    check_regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("x" * (MAX_REGEX_CHARACTERS + 1), "4096 characters, not 4097"),
        ("a{1,100000}", "at character 2"),
        ("a{10001,}", "at character 2"),
        ("a{0,10001}", "at character 2"),
        ("a{" + "9" * 1000 + "}", "at character 2"),
        ("(a{100}){101}", "at character 9"),
        ("((a{30}){30}b){30}", "at character 15"),
        (r"\p{Greek}{10001}", "at character 10"),
        (r"\\{10001}", "at character 3"),
        ("[a]]{10001}", "at character 5"),
        ("a{101}{100}", "at character 7"),
        ("(" * 4000, "64 deep, at character 65"),
    ],
)
def test_unreasonable_patterns_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(reason)):
        check_regex(pattern)


def test_patterns_in_schemas_are_judged_too() -> None:
    with pytest.raises(GrammarError, match="#/properties/a: a regex may repeat 10000 times"):
        check_schema({"properties": {"a": {"pattern": "a{10001}"}}})
    with pytest.raises(GrammarError, match="#: a regex may repeat"):
        check_schema({"patternProperties": {"a{10001}": {}}})


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('start: "a"\nb: ' + "(" * 30_000 + '"b"' + ")" * 30_000, "line 2: brackets"),
        ('start: "a"~1..10001', "line 1: a repeat"),
        ('start: "a"~10001', "line 1: a repeat"),
        ('root ::= "a"{1,10001}', "line 1: a repeat"),
    ],
)
def test_unreasonable_grammars_are_refused(grammar: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        check_lark(grammar)


def test_brackets_that_close_cost_no_depth() -> None:
    check_lark("start: a\n" + 'a: ("b" ["c"])\n' * 1_000)
