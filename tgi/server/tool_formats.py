"""How models write calls of tools: a table, and what follows from a row of it for reading and for grammars.

An answer with calls is `begin call (between call)* end`, and a call is `head NAME middle ARGUMENTS tail`, where the
arguments are a JSON object. A row is chosen by what the model's chat template says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SPACE = r"[ \n]{0,2}"  # which models put before a call that begins an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """One way to write calls. Without `begin`, a call can only be the whole answer, and text must not look like one."""

    name: str
    marks: tuple[str, ...]  # all of them are in the template's text
    lacks: tuple[str, ...] = ()  # none of them is
    begin: str = ""
    head: str = '{"name": "'
    middle: str = '", "arguments": '
    tail: str = "}"
    between: str
    end: str = ""

    def opening(self, tool: str) -> str:
        """What comes before the arguments of a call."""
        return self.head + tool + self.middle

    def uses(self, token: str) -> bool:
        """Whether a special token belongs to the syntax."""
        literals = (self.begin, self.head, self.middle, self.tail, self.between, self.end)
        return bool(token) and any(token in literal for literal in literals)


GENERIC = ToolFormat(name="generic", marks=(), middle='", "parameters": ', between="; ")
_DEEPSEEK_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
FORMATS = (
    ToolFormat(
        name="deepseek",
        marks=("<｜tool▁calls▁begin｜>", "```json"),
        begin="<｜tool▁calls▁begin｜>" + _DEEPSEEK_CALL,
        head="",
        middle="\n```json\n",
        tail="\n```<｜tool▁call▁end｜>",
        between="\n" + _DEEPSEEK_CALL,
        end="<｜tool▁calls▁end｜>",
    ),
    ToolFormat(name="granite", marks=("<|tool_call|>",), begin="<|tool_call|>[", between=", ", end="]"),
    ToolFormat(
        name="mistral-named",
        marks=("[TOOL_CALLS]", "[ARGS]"),
        begin="[TOOL_CALLS]",
        head="",
        middle="[ARGS]",
        tail="",
        between="[TOOL_CALLS]",
    ),
    ToolFormat(name="mistral", marks=("[TOOL_CALLS] [",), begin="[TOOL_CALLS] [", between=", ", end="]"),
    ToolFormat(name="mistral-tekken", marks=("[TOOL_CALLS]",), begin="[TOOL_CALLS][", between=", ", end="]"),
    ToolFormat(
        name="hermes",
        marks=("<tool_call>",),
        lacks=("<function=", "<arg_key>"),
        begin="<tool_call>\n",
        between="\n</tool_call>\n<tool_call>\n",
        end="\n</tool_call>",
    ),
    ToolFormat(
        name="llama3",
        marks=('{"name": function name, "parameters"',),
        middle='", "parameters": ',
        between="; ",
    ),
)


def find_format(template: str) -> ToolFormat:
    """The format that a chat template teaches; `GENERIC` when it teaches none that is known."""
    text = template.replace('\\"', '"')
    for row in FORMATS:
        if all(mark in text for mark in row.marks) and not any(mark in text for mark in row.lacks):
            return row
    return GENERIC


def lark_grammar(
    row: ToolFormat, tools: Sequence[str], specials: Mapping[str, int], *, forced: bool, parallel: bool
) -> str:
    """An answer as a Lark grammar of llguidance, in which rule `@tool_N` stands for the arguments of tool N.

    `specials` are the ids of the model's special tokens: no text matches those. Without `forced`, text may come before
    the calls, or be all there is; without `parallel`, there is one call.
    """
    used = sorted((token for token in specials if row.uses(token)), key=len, reverse=True)

    def sequence(literal: str) -> str:
        parts = re.split("(" + "|".join(map(re.escape, used)) + ")", literal) if used else [literal]
        return " ".join(_symbol(part, specials.get(part)) for part in parts if part)

    rules = ["%llguidance {}"]
    calls = f"call ({sequence(row.between)} call)*" if parallel else "call"
    rules.append(f"calls: {calls} {sequence(row.end)}")
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(tools))))
    for index, tool in enumerate(tools):
        if row.begin:
            head = sequence(row.opening(tool))
        else:
            head = f"HEAD_{index}"
            rules.append(f"{head}: /{_SPACE}/ {_quoted(row.opening(tool))}")
        rules.append(f"call_{index}: {head} @tool_{index} {sequence(row.tail)}")
    first = next((token for token in used if row.begin.startswith(token)), None)
    if forced:
        rules.append(f"start: {sequence(row.begin)} calls")
    elif not row.begin:
        named = f"{_pattern(row.head)}({'|'.join(map(_pattern, tools))}){_pattern(row.middle[0])}"
        rules.append(f"start: TEXT | calls\nTEXT: /(.|\\n)*/ & ~/{_SPACE}{named}(.|\\n)*/")
    elif first is not None:
        rules.append(f"start: TEXT? ({sequence(row.begin)} calls)?\nTEXT: /(.|\\n)+/")
    else:
        trigger = row.begin.rstrip()
        rules.append(f"start: TEXT | lead {sequence(row.begin[len(trigger) :])} calls")
        rules.append(f"lead[lazy]: TEXT {_quoted(trigger)}\nTEXT: /(.|\\n)*/")
    return "\n".join(rules) + "\n"


def _symbol(literal: str, token_id: int | None) -> str:
    return _quoted(literal) if token_id is None else f"<[{token_id}]>"


def _quoted(literal: str) -> str:
    return json.dumps(literal, ensure_ascii=False)


def _pattern(literal: str) -> str:
    """A regular expression for one text, in llguidance's dialect, which does not let every character be escaped."""
    return "".join("\\" + character if character in r"\.+*?()|[]{}^$/" else character for character in literal)


@dataclass(frozen=True, slots=True)
class CallPart:
    """Some of a call: its name with the first character of its arguments, or more of its arguments."""

    index: int
    name: str | None
    arguments: str


class ToolReader:
    """The calls in one answer, read while it is generated. `forced`: it begins with a call."""

    def __init__(self, row: ToolFormat, tools: Sequence[str], *, forced: bool) -> None:
        self.count = 0  # calls begun
        self._row = row
        self._openings = {row.opening(tool): tool for tool in tools}
        # What tells a call from a text: in a format without a beginning, its name with what follows.
        self._telling = [opening[: len(row.head) + len(tool) + 1] for opening, tool in self._openings.items()]
        self._state = self._expect_begin if forced else self._text
        self._held = ""
        self._said = False
        self._inside = _Object()

    def feed(self, text: str) -> list[str | CallPart]:
        """What more of the answer means: text to show, and parts of calls."""
        self._held += text
        found: list[str | CallPart] = []
        before = None
        while self._held and before != (self._state, self._held):
            before = (self._state, self._held)
            self._state(found)
        return found

    def finish(self) -> str:
        """The text that was held back because it could have become a call."""
        return self._held if self._state == self._text else ""

    def _text(self, found: list[str | CallPart]) -> None:
        begin = self._row.begin
        if not begin:
            self._text_or_call(found)
            return
        position = self._held.find(begin)
        if position < 0:
            kept = max(size for size in range(len(begin)) if self._held.endswith(begin[:size]))
            position = len(self._held) - kept
        else:
            self._state = self._opening
        if position:
            found.append(self._held[:position])
        self._held = (
            self._held[position:].removeprefix(begin) if self._state == self._opening else self._held[position:]
        )

    def _text_or_call(self, found: list[str | CallPart]) -> None:
        start = self._held.lstrip(" \n")
        if not self._said and any(start.startswith(telling) for telling in self._telling):
            self._state = self._opening
        elif self._said or not any(telling.startswith(start) for telling in self._telling):
            self._said = True
            found.append(self._held)
            self._held = ""

    def _expect_begin(self, found: list[str | CallPart]) -> None:
        if self._held.startswith(self._row.begin):
            self._held = self._held.removeprefix(self._row.begin)
            self._state = self._opening

    def _opening(self, found: list[str | CallPart]) -> None:
        start = self._held.lstrip(" \n") if not self._row.begin else self._held
        for opening, tool in self._openings.items():
            if start.startswith(opening) and len(start) > len(opening):
                found.append(CallPart(self.count, tool, start[len(opening)]))
                self._inside = _Object()
                self._inside.advance(start[len(opening)])
                self.count += 1
                self._held = start[len(opening) + 1 :]
                self._state = self._arguments
                return

    def _arguments(self, found: list[str | CallPart]) -> None:
        length = self._inside.advance(self._held)
        found.append(CallPart(self.count - 1, None, self._held[:length]))
        self._held = self._held[length:]
        if self._inside.complete:
            self._state = self._after

    def _after(self, found: list[str | CallPart]) -> None:
        next_call = self._row.tail + self._row.between
        if self._held.startswith(next_call):
            self._held = self._held.removeprefix(next_call)
            self._state = self._opening


class _Object:
    """Finds the end of a JSON object that comes piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self.complete = False

    def advance(self, text: str) -> int:
        """Read on. Returns: how many characters of `text` belong to the object."""
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.complete = True
                    return position + 1
        return len(text)


def compact(arguments: str) -> str:
    """JSON without white space between its tokens; numbers and strings as they were written."""
    return re.sub(r'("(?:[^"\\]|\\.)*(?:"|\\?$))|\s+', r"\1", arguments)
