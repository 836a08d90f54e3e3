"""A conversation to a prompt, by the model's own chat template, in a sandbox.

The environment is the one of transformers (spec/http-api.md section 10.3 and decision D6), so that a template means
here what it meant to its author. Only the model brings a template; no client can. `tgi.server.renderer` runs this in a
process of its own: what a template may compute is not bounded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

from tgi.errors import TemplateError

MAX_PROMPT_CHARACTERS = 8 << 20
DEFAULT, TOOL_USE = "default", "tool_use"  # names that transformers gives meaning to
_RESERVED = {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt", "continue_final_message",
             "chat_template", "tokenize"}  # fmt: skip
_TAG = "CONTINUE_FINAL_MESSAGE_TAG"  # transformers' word


class ForbiddenTemplate(TemplateError):
    """The template tried to leave its sandbox."""


class Facts(Struct, frozen=True):
    """What a template's text tells about the variables it expects."""

    missing: str | None = None  # why nothing can be rendered
    tools: bool = False  # it shows the tools
    tool_calls: bool = False  # it shows earlier calls of tools
    content_parts: bool = False  # it takes a message's content as a list of parts
    content_text: bool = True  # it takes a message's content as text
    content_null: bool = False  # it asks whether a message's content is none
    argument_text: bool = False  # it takes the arguments of calls as JSON text, not as objects


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it is only its content, in a scope."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """A call that gives the block's content back."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: jinja2.runtime.Macro) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """jinja2's namespace, without the attributes that lead out of the sandbox. Source: transformers 5."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No parameter is called self: `namespace(self=...)` must work.
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


class _Dict:
    """`dict` for templates: makes dictionaries, and has no other attributes of the class. Source: transformers 5."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class ChatTemplate:
    """One chat template, compiled once.

    A template that cannot be compiled, or a model without one, is reported by every `render`, not at construction:
    the other routes work without it. `tokens` are the special tokens that templates know by name, as `bos_token`.
    """

    def __init__(self, source: str | None, **tokens: str | None) -> None:
        self._tokens = {"bos_token": "", "eos_token": ""} | {name: token or "" for name, token in tokens.items()}
        self._error = TemplateError("template not found")
        self._template: jinja2.Template | None = None
        environment = _environment()
        self._reserved = _RESERVED | set(environment.globals) | set(self._tokens)
        self.facts = Facts(missing=str(self._error))
        if source is None:
            return
        try:
            self._template = environment.from_string(source)
            self.facts = read_facts(source, environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            self._error = _as_request_error(error)
            self.facts = Facts(missing=str(self._error))

    def render(
        self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any] | None = None, *,
        tools: Sequence[Any] | None = None, add_generation_prompt: bool = True, continued: bool | None = None,
    ) -> str:  # fmt: skip
        """The prompt of a conversation.

        With `continued`, it ends with the last message, to be continued: by default if the assistant spoke last.

        Raises: TemplateError when there is no template, it fails, or `extra` replaces what the server sets.
        """
        if self._template is None:
            raise self._error
        if taken := self._reserved & set(extra or ()):
            raise TemplateError(f"`chat_template_kwargs` must not set `{min(taken)}`")
        variables = {**self._tokens, **(extra or {}), "tools": tools}
        if continued or (continued is None and messages and messages[-1]["role"] == "assistant"):
            text = _text_of(messages[-1]) if messages else ""
            if text:
                marked = [*messages[:-1], _with_tag(messages[-1])]
                prompt = self._generate(variables | {"messages": marked, "add_generation_prompt": False})
                if _TAG in prompt:
                    return prompt[: prompt.rindex(_TAG)].rstrip()
            if continued:
                raise TemplateError("there is no last message to continue in what the template shows")
        return self._generate(variables | {"messages": messages, "add_generation_prompt": add_generation_prompt})

    def _generate(self, variables: dict[str, Any]) -> str:
        assert self._template is not None
        parts, length = [], 0
        try:
            for part in self._template.generate(**variables):
                parts.append(part)
                length += len(part)
                if length > MAX_PROMPT_CHARACTERS:
                    raise TemplateError(f"the prompt is longer than {MAX_PROMPT_CHARACTERS} characters")
        except jinja2.TemplateError as error:
            raise _as_request_error(error) from None
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, LookupError, RecursionError,
                MemoryError) as error:  # fmt: skip
            # The template met a message it was not written for. The text of such errors may hold addresses.
            raise TemplateError(f"the template failed with {type(error).__name__}") from None
        return "".join(parts)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
    )
    return environment


def read_facts(source: str, tree: jinja2.nodes.Template) -> Facts:
    """What a template, as text and as a syntax tree, expects of its variables."""
    contents = _content_names(tree)
    parts = any(_is_content(_unfiltered(loop.iter), contents) for loop in tree.find_all(jinja2.nodes.For))
    told_apart = any(
        test.name in ("string", "iterable", "sequence", "mapping") and _is_content(test.node, contents)
        for test in tree.find_all(jinja2.nodes.Test)
    )
    return Facts(
        tools=any(name.name == "tools" and name.ctx == "load" for name in tree.find_all(jinja2.nodes.Name)),
        tool_calls="tool_calls" in source,
        content_parts=parts,
        content_text=told_apart or not parts,
        content_null=re.search(r"""content['"]?\]? is (not )?none""", source) is not None,
    )


def wants_argument_text(template: ChatTemplate) -> bool:
    """Whether the arguments of an earlier call must be JSON text to show as JSON. Renders the template."""
    if not template.facts.tool_calls:
        return False
    shown = {}
    for kind, arguments in (("object", {"needle": "hay"}), ("text", '{"needle": "hay"}')):
        call = {"id": "abcdef123", "type": "function", "function": {"name": "f", "arguments": arguments}}
        said = {"role": "assistant", "tool_calls": [call]} | ({"content": None} if template.facts.content_null else {})
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "x"},
            said,
            {"role": "tool", "content": "y", "tool_call_id": call["id"]},
        ]
        try:
            shown[kind] = template.render(messages, tools=[])
        except TemplateError:
            shown[kind] = ""
    as_object = "needle" in shown["object"] and "'needle'" not in shown["object"]
    return not as_object and '"needle"' in shown["text"]


def _content_names(tree: jinja2.nodes.Template) -> set[str]:
    """The variables that hold a message's content: assigned from it, or given to a macro as an argument."""
    names: set[str] = set()
    macros = {macro.name: macro for macro in tree.find_all(jinja2.nodes.Macro)}
    for _ in range(3):  # an alias of an alias of an alias is as far as templates go
        for assign in tree.find_all(jinja2.nodes.Assign):
            if isinstance(assign.target, jinja2.nodes.Name) and _is_content(_unfiltered(assign.node), names):
                names.add(assign.target.name)
        for call in tree.find_all(jinja2.nodes.Call):
            macro = macros.get(call.node.name) if isinstance(call.node, jinja2.nodes.Name) else None
            for parameter, argument in zip(macro.args if macro else (), call.args, strict=False):
                if _is_content(_unfiltered(argument), names):
                    names.add(parameter.name)
    return names


def _is_content(node: jinja2.nodes.Node | None, names: set[str]) -> bool:
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    return isinstance(node, jinja2.nodes.Name) and node.name in names


def _unfiltered(node: jinja2.nodes.Node | None) -> jinja2.nodes.Node | None:
    while isinstance(node, jinja2.nodes.Filter):
        node = node.node
    return node


def named_templates(template: str | Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    """The templates of a model by name, from the forms that files have."""
    if template is None or isinstance(template, str):
        return {} if template is None else {DEFAULT: template}
    return dict(_names_and_texts(template))


def _names_and_texts(entries: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if "name" in entry and "template" in entry:
            yield entry["name"], entry["template"]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = next((part["text"] for part in reversed(content) if part.get("text")), "")
    return content.strip() if isinstance(content, str) else ""


def _with_tag(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _TAG}
    last = max(index for index, part in enumerate(content) if part.get("text"))
    marked = {**content[last], "text": content[last]["text"] + _TAG}
    return {**message, "content": [*content[:last], marked, *content[last + 1 :]]}


def _as_request_error(error: jinja2.TemplateError) -> TemplateError:
    line = getattr(error, "lineno", None)
    where = f"chat_template:{line}" if line else "chat_template"
    if isinstance(error, jinja2.exceptions.SecurityError):
        return ForbiddenTemplate(f"forbidden operation: {error.message} (in {where})")
    kind = "undefined value" if isinstance(error, jinja2.UndefinedError) else "syntax error"
    return TemplateError(f"{kind}: {error.message} (in {where})")


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("a namespace cannot have attributes that begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which a prompt must not contain.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
