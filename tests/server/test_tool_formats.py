"""Each way to write calls: what its grammar allows, and how its answers are read, wherever they are cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from tests.server.serving import EOS, byte_level
from tgi.guidance.grammar import Compiler, Constraint
from tgi.guidance.mask import make_vocabulary
from tgi.server.tool_formats import (
    FORMATS,
    GENERIC,
    CallPart,
    ToolFormat,
    ToolReader,
    compact,
    find_format,
    lark_grammar,
)

ROWS = (*FORMATS, GENERIC)
SPECIALS = [
    "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
]  # fmt: skip
NAMES = ["get-weather", "get"]
SCHEMA = {
    "type": "object", "properties": {"x": {"type": "string"}, "deep": {"type": "array", "items": {"type": "object"}}},
    "required": ["x"], "additionalProperties": False,
}  # fmt: skip
FIRST = '{"x": "a}\\"]{ é"}'
SECOND = '{"x": "", "deep": [{"y": [1, {}]}]}'


def tokenizer(*, special: bool) -> Tokenizer:
    made = byte_level()
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS if special])
    return made


class Grammar:
    """A grammar over bytes, and over special tokens if the model has them."""

    def __init__(self, row: ToolFormat, *, special: bool, forced: bool, parallel: bool = True) -> None:
        self.tokenizer = tokenizer(special=special)
        specials = {token: self.tokenizer.token_to_id(token) for token in SPECIALS if special}
        self.vocabulary: LLTokenizer = make_vocabulary(self.tokenizer, [EOS], self.tokenizer.get_vocab_size())
        arguments = json.loads(Compiler().compile(Constraint("json", json.dumps(SCHEMA))))["grammars"][0]
        lark = lark_grammar(row, NAMES, specials, forced=forced, parallel=parallel)
        tools = [arguments | {"name": f"tool_{index}"} for index in range(len(NAMES))]
        self.text = json.dumps({"grammars": [{"lark_grammar": lark}, *tools]})

    def judge(self, text: str) -> tuple[bool, bool]:
        """Whether an answer may begin so, and whether it may be all."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        matcher = LLMatcher(self.vocabulary, self.text)
        assert not matcher.is_error(), matcher.get_error()
        begins = matcher.try_consume_tokens(ids) == len(ids)
        return begins, begins and matcher.is_accepting()


def call(row: ToolFormat, name: str, arguments: str) -> str:
    return row.opening(name) + arguments + row.tail


def answer(row: ToolFormat, *calls: tuple[str, str]) -> str:
    return row.begin + row.between.join(call(row, *one) for one in calls) + row.end


def read(row: ToolFormat, pieces: list[str], *, forced: bool) -> tuple[str, list[list[str]]]:
    """The text and the calls of an answer."""
    reader = ToolReader(row, NAMES, forced=forced)
    text, calls = "", []
    for piece in pieces:
        for part in reader.feed(piece):
            if isinstance(part, str):
                assert part
                text += part
            elif part.name is not None:
                assert (part.index, part.arguments) == (len(calls), "{")
                calls.append([part.name, part.arguments])
            else:
                assert part.index == len(calls) - 1
                assert part.arguments
                calls[-1][1] += part.arguments
    assert reader.count == len(calls)
    return text + reader.finish(), calls


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_grammar_allows_calls_with_valid_arguments_and_nothing_like_them(row: ToolFormat, special: bool) -> None:
    free = Grammar(row, special=special, forced=False)
    forced = Grammar(row, special=special, forced=True)
    single = Grammar(row, special=special, forced=False, parallel=False)
    one, two = answer(row, ("get", FIRST)), answer(row, ("get-weather", FIRST), ("get", SECOND))
    for grammar in (free, forced, single):
        assert grammar.judge(one) == (True, True)
        assert grammar.judge(two) == ((False, False) if grammar is single else (True, True))
        assert not grammar.judge(row.begin + row.opening("get") + '{"x": 1')[0]
        assert not grammar.judge(row.begin + row.opening("get") + '{"y')[0]
        assert not grammar.judge(one + "x")[0]
    for text in ("Hello {", "", "{1}", "<tool", '{"name": "other'):
        assert free.judge(text) == (True, True)
        assert forced.judge(text)[1] is False
    if row.begin:
        assert free.judge("Let me see.\n" + one) == (True, True)
        assert not free.judge(row.begin + row.opening("other")[: len(row.head) + 5])[0]
    else:
        assert free.judge("\n" + one) == (True, True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_answer_means_the_same_wherever_it_is_cut(row: ToolFormat) -> None:
    calls = [("get", FIRST), ("get-weather", SECOND)]
    whole = answer(row, *calls)
    for lead in ["", "Let me <see>, [ok]: {\n"] if row.begin else ["", "\n "]:
        text = lead + whole
        meant = (lead if row.begin else "", [list(one) for one in calls])
        assert read(row, list(text), forced=False) == meant
        for position in range(len(text) + 1):
            assert read(row, [text[:position], text[position:]], forced=False) == meant
    assert read(row, list(whole), forced=True) == ("", [list(one) for one in calls])
    assert read(row, [whole], forced=True) == ("", [list(one) for one in calls])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize(
    "text", ["Hello", "{", '{"name": "gets"}', "<tool_call", "[TOOL_CALL] [", "a\n\n<|tool_call", ""]
)
def test_text_that_only_looks_like_a_call_is_shown(row: ToolFormat, text: str) -> None:
    assert read(row, list(text), forced=False) == (text, [])
    assert read(row, [text], forced=False) == (text, [])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_cut_by_its_length_never_shows_syntax(row: ToolFormat) -> None:
    whole = answer(row, ("get", FIRST), ("get", SECOND))
    for length in range(len(whole)):
        text, calls = read(row, list(whole[:length]), forced=True)
        assert text == ""
        assert [name for name, _ in calls] == ["get"] * len(calls)
        assert "".join(arguments for _, arguments in calls) in (FIRST + SECOND)[: len(whole)]
        if length >= len(row.begin + row.opening("get")) + 1:
            assert calls


def test_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    hermes = next(row for row in FORMATS if row.name == "hermes")
    reader = ToolReader(hermes, NAMES, forced=False)
    assert [reader.feed(piece) for piece in ("a <to", "ol", " x<", "tool_call>", "\n")] == [
        ["a "],
        [],
        ["<tool x"],
        [],
        [],
    ]
    generic = ToolReader(GENERIC, NAMES, forced=False)
    assert [generic.feed(piece) for piece in ("{", '"na', "il", "!")] == [[], [], ['{"nail'], ["!"]]


def test_a_name_that_begins_another_is_told_apart() -> None:
    for order in itertools.permutations(NAMES):
        reader = ToolReader(GENERIC, list(order), forced=True)
        parts: list[Any] = reader.feed(GENERIC.opening("get-weather") + "{}")
        assert parts == [CallPart(0, "get-weather", "{"), CallPart(0, None, "}")]


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("{{ '[TOOL_CALLS] [' }}", "mistral"), ("{{ '[TOOL_CALLS][' }}", "mistral-tekken"),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral-named"), ("<tool_call>{\"name\"", "hermes"),
        ("<tool_call>\n<function=name>", "generic"), ('{\\"name\\": function name, \\"parameters\\": x}', "llama3"),
        ("<｜tool▁calls▁begin｜> ```json", "deepseek"), ("'<|tool_call|>'", "granite"), ("", "generic"),
    ],
)  # fmt: skip
def test_a_template_tells_its_format(template: str, row: str) -> None:
    assert find_format(template).name == row


@pytest.mark.parametrize(
    ("text", "dense"),
    [
        ('{ "a b" : [1.50, "x \\" y" ,\n true] }', '{"a b":[1.50,"x \\" y",true]}'), ("{}", "{}"), ("{ }", "{}"),
        ('{"n": 123456789012345678901234567890 }', '{"n":123456789012345678901234567890}'),
        ('{"a": "\\\\" }', '{"a":"\\\\"}'), ('{"cut": "of ', '{"cut":"of '), ('{"cut": "\\', '{"cut":"\\'),
    ],
)  # fmt: skip
def test_compact_json_keeps_strings_and_numbers(text: str, dense: str) -> None:
    assert compact(text) == dense
