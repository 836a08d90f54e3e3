"""Constraints become grammars that mean what they say, or are refused with the place and the reason."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from tgi.guidance.grammar import ANY_OBJECT, Compiler, Constraint, _Bytes, parser_limits
from tgi.guidance.limits import GrammarError

SPECIAL = ("<|tool|>",)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(SPECIAL)


@pytest.fixture(scope="module")
def vocabulary() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes(SPECIAL)), slices=[])


def constraint(kind: Any, value: Any) -> Constraint:
    return Constraint(kind, value if isinstance(value, str) else json.dumps(value))


@pytest.fixture(scope="module")
def accepts(compiler: Compiler, vocabulary: LLTokenizer) -> Any:
    """Whether a constraint lets an output be exactly this text: every byte allowed when it comes, and then the end."""

    def answer(kind: str, value: Any, text: str | bytes) -> bool:
        matcher = LLMatcher(vocabulary, compiler.compile(constraint(kind, value)), limits=parser_limits())
        for byte in [*(text.encode() if isinstance(text, str) else text), 256]:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            if not bits[byte]:
                return False
            matcher.consume_token(byte)
        return True

    return answer


def test_a_schema_decides_keys_their_order_and_their_values(accepts: Any) -> None:
    assert accepts("json", PERSON, '{"name":"Bob","age":30}')
    assert not accepts("json", PERSON, '{"age":30,"name":"Bob"}')
    assert not accepts("json", PERSON, '{"name":"Bob"}')
    assert not accepts("json", PERSON, '{"name":"Bob","age":"30"}')
    assert not accepts("json", PERSON, '{"name":"Bob","age":30,"more":1}')


def test_one_space_may_stand_between_json_tokens_as_in_tgi(accepts: Any) -> None:
    assert accepts("json", PERSON, '{ "name" : "Bob" , "age" : 30 }')
    for text in ('{\n"name":"Bob","age":30}', '{\t"name":"Bob","age":30}', ' {"name":"Bob","age":30}'):
        assert not accepts("json", PERSON, text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": {"type": "integer"}}, "[1,2]"),
        ({"enum": ["a", 1, None]}, "null"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": "x"}}}, '"x"'),
        ({"anyOf": [{"type": "string"}, {"type": "boolean"}]}, "true"),
        ({}, '{"a":[1]}'),
        (True, "1"),
    ],
)
def test_a_schema_needs_no_properties(accepts: Any, schema: Any, text: str) -> None:
    assert accepts("json", schema, text)


def test_any_object_is_an_object(accepts: Any) -> None:
    assert accepts("json", ANY_OBJECT, '{"a":[1,{"b":null}],"c":"é"}')
    assert accepts("json", ANY_OBJECT, "{}")
    assert not accepts("json", ANY_OBJECT, "[]")


def test_a_regex_matches_the_whole_output(accepts: Any) -> None:
    assert accepts("regex", "[0-9]{2}", "42")
    assert accepts("regex", "^[0-9]{2}$", "42")
    assert not accepts("regex", "[0-9]{2}", "421")
    assert not accepts("regex", "[0-9]{2}", "a42")
    assert accepts("regex", "(0|1)*1(0|1){20}", "0" * 10 + "1" * 21)
    assert not accepts("regex", "(0|1)*1(0|1){20}", "1" * 20)


def test_a_choice_is_taken_literally(accepts: Any) -> None:
    choices = ["a.b", "a/b", "\n\"'x", "é", "back\\slash", "#", "a", "(?=", " spaced "]
    for choice in choices:
        assert accepts("choice", choices, choice)
    assert not accepts("choice", choices, "aXb")
    assert not accepts("choice", choices, "a.")


def test_a_grammar_may_be_larks_or_gbnf(accepts: Any) -> None:
    lark = 'start: "yes" | number\nnumber: /[1-9][0-9]*/'
    gbnf = 'root ::= "yes" | number\nnumber ::= [1-9] [0-9]*'
    for grammar in (lark, gbnf):
        assert accepts("lark", grammar, "yes")
        assert accepts("lark", grammar, "120")
        assert not accepts("lark", grammar, "020")


def test_a_grammar_may_name_the_models_special_tokens(accepts: Any, compiler: Compiler) -> None:
    assert accepts("lark", 'start: <|tool|> "x"', b"") is False
    with pytest.raises(GrammarError, match="unknown special token"):
        compiler.compile(constraint("lark", "start: <|other|>"))


def test_a_grammar_cannot_be_the_librarys_own_json(compiler: Compiler) -> None:
    inner = json.dumps({"grammars": [{"json_schema": {"type": "string"}}]})
    with pytest.raises(GrammarError):
        compiler.compile(constraint("lark", inner))


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("json", {"type": "nonsense"}, "#: Invalid type: nonsense"),
        ("json", {"properties": {"a": {"items": {"type": "nonsense"}}}}, "#/properties/a/items: Invalid type"),
        ("json", {"anyOf": [{"type": "string"}, {"not": {}}]}, '#/anyOf/1: Unimplemented keys: ["not"]'),
        ("json", {"additionalProperties": {"uniqueItems": True}}, "#/additionalProperties: Unimplemented keys"),
        ("json", {"properties": {"a": {"type": "string", "pattern": 3}}}, "#/properties/a: Expected string"),
        ("json", {"type": "string", "pattern": "[a-"}, "#: regex parse error"),
        ("json", {"enum": []}, "#: Unsatisfiable"),
        ("json", {"type": "object", "properties": "x"}, "#: properties must be an object"),
        ("json", {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "#: `oneOf` is supported only"),
        ("json", {"$ref": "#/$defs/a"}, "#: Pointer '/$defs/a' does not exist"),
        ("json", {"x-guidance": {"lenient": True}}, "#/x-guidance: not supported"),
        ("json", False, "#: nothing can match"),
        ("json", "{", "the schema is not JSON"),
        ("json", "[" * 5000 + "]" * 5000, "the schema is not JSON"),
        ("json", '{"items":' * 5000 + "{}" + "}" * 5000, "the schema is not JSON"),
        ("regex", "[a-", "unclosed character class, at character 1"),
        ("regex", "ab(?=c)", "look-around, including look-ahead and look-behind, is not supported, at character 3"),
        ("regex", r"(a)\1", "backreferences are not supported, at character 4"),
        ("regex", r"a\b", "lookarounds not supported yet"),
        ("regex", "a{1,100000}", "may repeat 10000 times"),
        ("lark", "start: a", 'line 1, column 8: unknown name: "a"'),
        ("lark", 'start: "a"\nb: ((', "line 2, column "),
        ("lark", "start: start", "nothing can match"),
        ("lark", " \n", "the grammar is empty"),
        ("lark", "root ::= (", "GBNF: Expected ')' at line 1"),
        ("lark", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000, "line 1: brackets may be 64 deep"),
        ("choice", [], "the list of choices is empty"),
        ("choice", [str(number) for number in range(2001)], "2000 choices, not 2001"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(compiler: Compiler, kind: str, value: Any, reason: str) -> None:
    with pytest.raises(GrammarError) as caught:
        compiler.compile(constraint(kind, value))
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_the_keywords_of_a_refused_schema_are_not_looked_at_for_ever(compiler: Compiler) -> None:
    schema = {
        "properties": {f"p{number}": {"type": "string"} for number in range(1000)} | {"last": {"type": "nonsense"}}
    }
    with pytest.raises(GrammarError, match="#: Invalid type: nonsense"):
        compiler.compile(constraint("json", schema))


def test_a_grammar_put_together_by_the_server_is_judged_as_a_whole(compiler: Compiler) -> None:
    schema = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(1500)}}
    part = json.loads(compiler.compile(constraint("json", schema)))["grammars"][0]

    def built(count: int) -> str:
        start = "start: <[49000]> (" + " | ".join(f'"{number}" @tool_{number}' for number in range(count)) + ")"
        parts = [{**part, "name": f"tool_{number}"} for number in range(count)]
        return json.dumps({"grammars": [{"lark_grammar": start}, *parts]})

    assert compiler.compile(Constraint("built", built(2))) == built(2)
    with pytest.raises(GrammarError, match="grammar size"):
        compiler.compile(Constraint("built", built(12)))
