"""A chat request's messages as chat templates know them (spec/http-api.md section 10.2)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tgi.errors import ValidationError
from tgi.server.schemas import Message
from tgi.server.templates import Facts

_NAMED_ROLES = ("tool", "function")  # elsewhere, a name is not shown: TGI never did


def template_messages(messages: Sequence[Message], facts: Facts) -> list[dict[str, Any]]:
    """The messages in the form that a template expects. Raises: ValidationError for content that is not text."""
    called = {call.get("id"): _called(call) for message in messages for call in message.tool_calls or []}
    return [_shown(message, facts, called) for message in messages]


def last_words(messages: Sequence[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """The conversation with `words` behind what its last message says."""
    if not messages:
        return [{"role": "user", "content": words.strip()}]
    content = messages[-1].get("content")
    if isinstance(content, list):
        extended: Any = [*content, {"type": "text", "text": words}]
    else:
        extended = (content or "") + words
    return [*messages[:-1], {**messages[-1], "content": extended}]


def _shown(message: Message, facts: Facts, called: Mapping[Any, str | None]) -> dict[str, Any]:
    # A key without a value is left out, as transformers does: templates handle a missing key better than None.
    shown: dict[str, Any] = {"role": message.role}
    content = _content(message, facts)
    if content is not None or facts.content_null:
        shown["content"] = content
    if message.role in _NAMED_ROLES:
        # OpenAI's clients give a result the id of its call; some templates want the name of the tool.
        name = message.name if message.name is not None else called.get(message.tool_call_id)
        shown |= {} if name is None else {"name": name}
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        shown |= {"reasoning_content": message.reasoning_content, "thinking": message.reasoning_content}
    if message.tool_calls:
        if facts.tool_calls:
            shown["tool_calls"] = [_with_arguments(call, facts) for call in message.tool_calls]
        else:
            calls = json.dumps(message.tool_calls, ensure_ascii=False, separators=(",", ":"))
            shown["content"] = f"{_text(message)}\n{calls}" if message.content else calls
    return shown


def _content(message: Message, facts: Facts) -> str | list[dict[str, Any]] | None:
    if message.content is None:
        return None
    text = _text(message)
    if isinstance(message.content, list) and facts.content_parts:
        return [{"type": "text", "text": part.text or ""} for part in message.content]
    return text if facts.content_text else [{"type": "text", "text": text}]


def _text(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    for part in message.content:
        if part.type != "text":
            raise ValidationError("`content` parts other than `text` are not supported")
    return "".join(part.text or "" for part in message.content)


def _called(call: dict[str, Any]) -> str | None:
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _with_arguments(call: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """A call with its arguments as the template expects them; OpenAI sends JSON text, TGI also `parameters`."""
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and not facts.argument_text:
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    elif facts.argument_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
