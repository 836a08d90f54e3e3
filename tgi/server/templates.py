"""A conversation to a prompt, by the model's own chat template, in a sandbox.

The environment is the one of transformers (spec/http-api.md section 10.3 and decision D6), so that a template means
here what it meant to its author. Only the model brings a template; no client can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tgi.errors import TemplateError

MAX_PROMPT_CHARACTERS = 8 << 20
_RESERVED = {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"}


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        """The content of the block, as if the tags were not there."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class ChatTemplate:
    """One model's chat template, compiled once.

    A template that cannot be compiled, or a model without one, is reported by every `render`, not at construction:
    the other routes work without it.
    """

    def __init__(self, source: str | None, *, bos_token: str | None = None, eos_token: str | None = None) -> None:
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._error = TemplateError("template not found")
        self._template: jinja2.Template | None = None
        self.uses_tool_calls = source is not None and "tool_calls" in source
        self._globals = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(self._globals)
        self._reserved = _RESERVED | set(environment.globals)
        if source is not None:
            try:
                self._template = environment.from_string(source)
            except jinja2.TemplateSyntaxError as error:
                self._error = _as_request_error(error)

    @property
    def missing(self) -> str | None:
        """Why conversations cannot be rendered, or None."""
        return None if self._template is not None else str(self._error)

    def render(self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any] | None = None) -> str:
        """The prompt of a conversation. If the assistant spoke last, it ends with that answer, to be continued.

        Raises: TemplateError when there is no template, it fails, or `extra` replaces what the server sets.
        """
        if self._template is None:
            raise self._error
        if taken := self._reserved & set(extra or ()):
            raise TemplateError(f"`chat_template_kwargs` must not set `{min(taken)}`")
        variables = {**(extra or {}), "messages": messages, "tools": None, "add_generation_prompt": True}
        parts, length = [], 0
        try:
            for part in self._template.generate(**variables, **self._tokens):
                parts.append(part)
                length += len(part)
                if length > MAX_PROMPT_CHARACTERS:
                    raise TemplateError(f"the prompt is longer than {MAX_PROMPT_CHARACTERS} characters")
        except jinja2.TemplateError as error:
            raise _as_request_error(error) from None
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, LookupError, RecursionError) as error:
            # The template met a message it was not written for. The text of such errors may hold addresses.
            raise TemplateError(f"the template failed with {type(error).__name__}") from None
        return _continued("".join(parts), messages)


def _continued(prompt: str, messages: Sequence[Mapping[str, Any]]) -> str:
    if not messages or messages[-1]["role"] != "assistant":
        return prompt
    answer = str(messages[-1].get("content") or "")
    for words in (answer, answer.strip()):  # many templates trim what they print
        position = prompt.rfind(words) if words else -1
        if position >= 0:
            return prompt[: position + len(words)].rstrip()
    return prompt


def _as_request_error(error: jinja2.TemplateError) -> TemplateError:
    line = getattr(error, "lineno", None)
    where = f"chat_template:{line}" if line else "chat_template"
    kind = "undefined value" if isinstance(error, jinja2.UndefinedError) else "syntax error"
    if isinstance(error, jinja2.exceptions.SecurityError):
        kind = "forbidden operation"
    return TemplateError(f"{kind}: {error.message} (in {where})")


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
