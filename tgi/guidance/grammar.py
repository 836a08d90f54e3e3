"""Constraints, as requests state them, to llguidance grammars: the text that travels to the engine.

A `Compiler` trusts nothing, and is meant for a process that may be killed (`tgi.server.grammar_worker`). What it
returns is known to build, under the same limits as in the engine, and to allow a beginning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from tgi.guidance.limits import (
    MAX_CHOICES,
    GrammarError,
    check_lark,
    check_regex,
    check_schema,
    check_size,
)
from tgi.guidance.simplify import simplify

# TGI's: at most one space where JSON allows white space. A model left free to go on with white space may never stop.
WHITESPACE = " ?"
ANY_OBJECT = '{"type":"object"}'
_ONE_OF = "`oneOf` is supported only where its schemas exclude each other, by type or by a constant property"
_SHOWN_CHARACTERS = 300  # of a reason
_ATTEMPTS = 200  # schemas tried to find the place of an error
_TOKEN_ID = re.compile(r"<\[\d+\]>")
_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")


class Constraint(msgspec.Struct, frozen=True):
    """What an output must match.

    `kind` says how to read `text`: "json" is a JSON schema, "regex" a pattern for the whole output, "lark" a grammar in
    Lark's or in GBNF notation, "choice" a JSON list of strings, and "built" a grammar that the server put together from
    what was compiled before; no client can send one.
    """

    kind: Literal["json", "regex", "lark", "choice", "built"]
    text: str


def parser_limits() -> LLParserLimits:
    """What building and advancing one grammar may cost, wherever that happens.

    At most about 40 MB of lexer states, and half a second to build. (Beyond 65,000 symbols llguidance 1.9 panics.)
    """
    return LLParserLimits(max_lexer_states=20_000, max_grammar_size=50_000, verbose_errors=False)


class Compiler:
    """Turns constraints into grammars.

    `special_tokens` are those of the model that a Lark grammar may name, such as `<|python_tag|>`.
    """

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        # One token a byte: what a grammar means does not depend on the vocabulary.
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(special_tokens)), slices=[])
        self._limits = parser_limits()

    def compile(self, constraint: Constraint) -> str:
        """The constraint as llguidance's JSON text. Raises: GrammarError saying where it is wrong, and why."""
        how = {
            "json": self._schema,
            "regex": self._regex,
            "lark": self._lark,
            "choice": self._choice,
            "built": self._built,
        }
        return how[constraint.kind](constraint.text)

    def _schema(self, text: str) -> str:
        check_size(text, "schema")
        try:
            schema = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise GrammarError(f"the schema is not JSON: {error}") from None
        check_schema(schema)
        if schema is False:
            raise GrammarError("#: nothing can match")
        if schema is True:
            text, schema = "{}", {}
        if "x-guidance" in schema:
            raise GrammarError("#/x-guidance: not supported")
        simple = simplify(schema)
        if json.dumps(simple) != json.dumps(schema):  # as text: 2.0 is not 2
            text, schema = json.dumps(simple), simple
        grammar = _from_schema(text)
        reason = self._reason(grammar)
        if reason is not None:
            shown = _ONE_OF if reason.startswith("oneOf ") else _first_lines(reason)
            raise GrammarError(f"{self._place(schema, reason)}: {shown}")
        return grammar

    def _regex(self, pattern: str) -> str:
        check_regex(pattern)
        grammar = LLMatcher.grammar_from_regex(pattern)
        reason = self._reason(grammar)
        if reason is not None:
            raise GrammarError(_regex_reason(reason, pattern))
        return grammar

    def _lark(self, text: str) -> str:
        check_size(text, "grammar")
        check_lark(text)
        if not text.strip():
            raise GrammarError("the grammar is empty")
        try:
            lark = any_to_lark(text)
        except Exception as error:  # the converter raises whatever it stumbles over
            raise GrammarError(f"GBNF: {_first_lines(str(error))}") from None
        # Wrapped: a text that begins with `{` would be read as llguidance's own JSON, past all checks.
        grammar = json.dumps({"grammars": [{"lark_grammar": lark}]}, ensure_ascii=False)
        reason = self._reason(grammar)
        if reason is not None:
            found = _PLACE.match(reason)
            where = f"line {found[1]}, column {found[2]}: " if found and lark == text else ""
            raise GrammarError(where + _first_lines(_PLACE.sub("", reason)))
        return grammar

    def _choice(self, text: str) -> str:
        check_size(text, "list of choices")
        choices = msgspec.json.decode(text, type=list[str])
        if not choices:
            raise GrammarError("the list of choices is empty")
        if len(choices) > MAX_CHOICES:
            raise GrammarError(f"there may be {MAX_CHOICES} choices, not {len(choices)}")
        grammar = LLMatcher.grammar_from_regex("|".join(_literal(choice) for choice in choices))
        reason = self._reason(grammar)
        if reason is not None:
            raise GrammarError(_first_lines(reason))
        return grammar

    def _built(self, grammar: str) -> str:
        # The ids are the model's, of which this vocabulary has none: any special token stands for them.
        reason = self._reason(_TOKEN_ID.sub(f"<[{_Bytes.eos_token_id}]>", grammar))
        if reason is not None:
            raise GrammarError(_first_lines(reason))
        return grammar

    def _reason(self, grammar: str) -> str | None:
        """Why a grammar cannot be used; None when it can."""
        matcher = LLMatcher(self._tokenizer, grammar, limits=self._limits, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            reason = str(matcher.get_error())
            return "nothing can match" if reason.startswith("NoExtension") else reason
        return "nothing can match" if matcher.is_stopped() and not matcher.is_accepting() else None

    def _place(self, schema: Any, reason: str) -> str:
        """A JSON pointer to the smallest schema that is refused for the same reason."""
        place, attempts = "#", _ATTEMPTS
        shared = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema}
        found = True
        while found:
            found = False
            for step, part in _parts(schema):
                attempts -= 1
                if attempts < 0:
                    return place
                alone = part | {key: value for key, value in shared.items() if key not in part}
                if self._reason(_from_schema(json.dumps(alone))) == reason:
                    place, schema, found = f"{place}/{step}", part, True
                    break
        return place


class _Bytes:
    """A vocabulary of all bytes, as llguidance asks for one."""

    bos_token_id = None
    eos_token_id = 256

    def __init__(self, special_tokens: Sequence[str]) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"", *(token.encode() for token in special_tokens)]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _from_schema(text: str) -> str:
    grammar: str = LLMatcher.grammar_from_json_schema(
        text, overrides={"whitespace_pattern": WHITESPACE, "whitespace_flexible": True}
    )
    return grammar


def _literal(text: str) -> str:
    """A regular expression for one text. (`re.escape` escapes what llguidance's dialect does not let be escaped.)"""
    return "".join("\\" + character if character in r"\.+*?()|[]{}^$" else character for character in text)


def _parts(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas that are directly inside a schema, and the steps to them."""
    if not isinstance(schema, dict):
        return
    for keyword in ("properties", "patternProperties", "$defs", "definitions"):
        if isinstance(schema.get(keyword), dict):
            for name, part in schema[keyword].items():
                if isinstance(part, dict):
                    yield f"{keyword}/{name}", part
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
        if isinstance(schema.get(keyword), list):
            for index, part in enumerate(schema[keyword]):
                if isinstance(part, dict):
                    yield f"{keyword}/{index}", part
    for keyword in ("items", "additionalProperties", "additionalItems"):
        if isinstance(schema.get(keyword), dict):
            yield keyword, schema[keyword]


def _first_lines(reason: str) -> str:
    """A reason on one line, without the excerpt that llguidance draws beneath it."""
    lines = [line.strip() for line in reason.replace("<non-verbose/>", "").split("\n   1 |")[0].splitlines()]
    return " ".join(line for line in lines if line and line != "^")[:_SHOWN_CHARACTERS]


def _regex_reason(reason: str, pattern: str) -> str:
    """What is wrong with a pattern, and at which character; llguidance draws carets beneath the pattern."""
    lines = reason.splitlines()
    for index, line in enumerate(lines):
        if line.startswith("error: "):
            carets = lines[index - 1]
            at = carets.find("^") - 4
            where = f", at character {at + 1}" if at >= 0 and "\n" not in pattern else ""
            return line.removeprefix("error: ")[:_SHOWN_CHARACTERS] + where
    tail = _PLACE.sub("", reason).rpartition("(in regex): ")[2]
    return _first_lines(tail)
