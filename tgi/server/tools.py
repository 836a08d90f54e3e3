"""What a chat request wants of its tools, checked: who sees them, what the answer may be, and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tgi.errors import ToolError, ValidationError
from tgi.server.schemas import ChatRequest, Grammar
from tgi.server.tool_formats import GENERIC, ToolFormat, ToolReader, lark_grammar

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
# TGI's sentence in its sense (spec/http-api.md section 10.4), for models whose template knows no tools.
_FORM = (
    "respond with a JSON for a function call with its proper arguments, in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}. Do not use variables.\n'
)
FORCED_PROMPT = f"\nGiven the functions available, {_FORM}"
AUTO_PROMPT = f"\nIf one of the functions available answers the request, {_FORM}Otherwise answer in plain words.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPlan:
    """Tools that the model may call, or must: `forced`; one call at most unless `parallel`."""

    tools: tuple[dict[str, Any], ...]  # as templates show them
    forced: bool
    parallel: bool
    prompt: str | None  # the client's words about how to call
    row: ToolFormat = GENERIC

    @property
    def names(self) -> list[str]:
        """The tools' names, in their order."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def numbers_calls(self) -> bool:
        """Whether a call's id may be a number, as TGI's are: Mistral's templates refuse all but nine characters."""
        return not self.row.name.startswith("mistral")

    def reader(self) -> ToolReader:
        """What reads one answer."""
        return ToolReader(self.row, self.names, forced=self.forced)

    def words(self, *, shown_by_template: bool) -> str:
        """What is said to the model behind the last message; nothing when its template says it all."""
        if self.row is not GENERIC and not self.prompt:
            return ""
        shown = "" if shown_by_template else json.dumps([tool["function"] for tool in self.tools], ensure_ascii=False)
        return f"\n---\n{shown}{self.prompt or (FORCED_PROMPT if self.forced else AUTO_PROMPT)}"

    async def grammar(self, compile: Callable[[Grammar], Awaitable[str]], specials: Mapping[str, int]) -> str:
        """What the answer must match, as the engine reads it: arguments are always valid for their tool.

        `compile` turns one schema into a grammar; `specials` are the ids of the model's special tokens.
        Raises: ToolError naming the tool whose parameters cannot be used.
        """
        lark = lark_grammar(self.row, self.names, specials, forced=self.forced, parallel=self.parallel)
        parts: list[dict[str, Any]] = [{"lark_grammar": lark}]
        for index, tool in enumerate(self.tools):
            try:
                text = await compile(Grammar(type="json", value=_schema(tool["function"])))
            except ValidationError as error:
                reason = str(error).removeprefix("Input validation error: ")
                raise ToolError(f"the parameters of `{tool['function']['name']}`: {reason}") from None
            parts.append({**json.loads(text)["grammars"][0], "name": f"tool_{index}"})
        return json.dumps({"grammars": parts}, ensure_ascii=False)


def plan_tools(body: ChatRequest) -> ToolPlan | None:
    """What a request wants of its tools; None when the model shall answer in words.

    Raises: ToolError for tools or a choice that cannot be honoured.
    """
    choice = body.tool_choice if body.tool_choice is not None else "auto"
    if choice == "none":
        return None
    name = _named(choice)
    if not body.tools:
        if name is not None:
            raise ToolError(f"Tool with name {name} not found")
        if choice == "required":
            raise ToolError("`tool_choice` is `required`, and there are no `tools`")
        return None
    tools = _checked(body.tools)
    if name is not None:
        tools = [tool for tool in tools if tool["function"]["name"] == name]
        if not tools:
            raise ToolError(f"Tool with name {name} not found")
    return ToolPlan(
        tools=tuple(tools), forced=name is not None or choice == "required",
        parallel=name is None and body.parallel_tool_calls is not False, prompt=body.tool_prompt or None,
    )  # fmt: skip


def _named(choice: str | dict[str, Any]) -> str | None:
    """The one function that is asked for, if it is one."""
    if isinstance(choice, str):
        return None if choice in ("auto", "required") else choice
    function = choice.get("function")
    if choice.get("type", "function") != "function" or not isinstance(function, dict):
        raise ToolError('`tool_choice` must be "auto", "none", "required", or name a function')
    name = function.get("name")
    if not isinstance(name, str):
        raise ToolError("`tool_choice.function.name` must be a string")
    return name


def _checked(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(tools) > MAX_TOOLS:
        raise ToolError(f"`tools` supports up to {MAX_TOOLS} tools. Given: {len(tools)}")
    checked = []
    names: set[str] = set()
    for tool in tools:
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, dict):
            raise ToolError("`tools` must be of type `function`")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ToolError("tools must have names of 1 to 64 letters, digits, `_` or `-`")
        if name in names:
            raise ToolError(f"two tools have the name `{name}`")
        names.add(name)
        if "arguments" in function:  # TGI's other word
            function = {("parameters" if key == "arguments" else key): value for key, value in function.items()}
        parameters = function.get("parameters")
        if not isinstance(parameters, dict | None) or (parameters or {}).get("type", "object") != "object":
            raise ToolError(f"the parameters of `{name}` must be a JSON schema of an object")
        # Some templates fail on a tool without a description or parameters.
        function = {key: value for key, value in function.items() if value is not None}
        function.setdefault("description", "")
        function.setdefault("parameters", _NO_ARGUMENTS)
        checked.append(tool | {"type": "function", "function": function})
    return checked


def _schema(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", **function["parameters"]}
