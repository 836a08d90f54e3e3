"""What becomes of a field and of a flag: seen by sending it, and by parsing it."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import click

from tests.compatibility import MESSAGES, Field, Flag
from tests.server.serving import Server, answering, serve
from tgi.cli.options import Alias, SettingsCommand, all_options, read_config
from tgi.config import Config
from tgi.errors import ConfigError

HONOURED, IGNORED, REFUSED = "honoured", "ignored", "refused"
_NOTHING = {"0", "1", "false"}  # values that ask for what is so anyway
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"inputs": "abc"}, "/v1/chat/completions": MESSAGES | {"seed": 1, "max_tokens": 5},
    "/v1/completions": {"prompt": "abc", "seed": 1, "max_tokens": 5},
}  # fmt: skip


async def all_fields(path: str, fields: list[Field]) -> list[str]:
    """What becomes of each field on a route, in order."""
    async with serve(answering("abc")) as server:
        server.services.validator._draw_seed = lambda: 1
        assert await _outcome(server, path, {}) == await _outcome(server, path, {})  # nothing is left to chance
        return [await _field(server, path, field) for field in fields]


async def _field(server: Server, path: str, field: Field) -> str:
    """`honoured`: something changes; `ignored`: nothing does; `refused`: 422, and the words name the field.

    What may change is the answer (but for its name and time), and what the engine is asked to do.
    """
    without = await _outcome(server, path, field.beside)
    status, answer, asked = await _outcome(server, path, field.beside | {field.name: field.value})
    if status == 422:
        named = "content" if field.name == "messages" else field.name
        assert named in answer[0]["error"].lower(), f"the refusal does not name `{named}`: {answer}"
        return REFUSED
    assert status == without[0] == 200, (field.name, status, answer)
    return IGNORED if (status, answer, asked) == without else HONOURED


async def _outcome(server: Server, path: str, fields: dict[str, Any]) -> tuple[int, Any, list[Any]]:
    body = {"parameters": fields} if path == "/generate" else fields
    before = len(server.supervisor.requests)
    answer = await server.post(path, BODIES[path] | body)
    asked = [_without_id(request) for request in server.supervisor.requests[before:]]
    events = answer.events if answer.headers["content-type"] == "text/event-stream" else [answer.json]
    return answer.status, [_unnamed(event) for event in events], asked


def _without_id(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__ if name != "id"}


def _unnamed(answer: Any) -> Any:
    if not isinstance(answer, dict):
        return answer
    return {name: value for name, value in answer.items() if name not in ("id", "created")}


def parsed(*arguments: str, **environment: str) -> tuple[Config, list[str]]:
    """The settings of one command line in an environment of these variables only, and the warnings."""

    def callback(**_: Any) -> tuple[Config, list[str]]:
        return read_config(click.get_current_context())

    command = SettingsCommand("serve", params=list(all_options()), callback=callback)
    with mock.patch.dict(os.environ, environment, clear=True):
        answer: tuple[Config, list[str]] = command.main(list(arguments), standalone_mode=False)
    return answer


def default(flag: Flag) -> Any:
    """What the setting is when nobody gives it."""
    option = next(one for one in all_options() if f"--{flag.name}" in one.opts)
    if isinstance(option, Alias):
        option = next(one for one in all_options() if one.name == option.target)
    return next(iter(option.default), None) if isinstance(option.default, tuple) else option.default


def flag_state(flag: Flag) -> tuple[str, list[str]]:
    """What becomes of a flag, on the command line and in the environment alike, and which of its values are refused.

    `honoured`: the settings change; `ignored`: it is taken, with a warning that says why it changes nothing;
    `refused`: every value that asks for something is an error that names the flag.
    """
    values = flag.values or ("true",)
    refused, warned = [], False
    for value in values:
        line = [f"--{flag.name}", value] if flag.values else [f"--{flag.name}"]
        config, warnings = _parsed(flag, *line)
        assert (config, warnings) == _parsed(flag, **{flag.variable: value}), f"{flag.variable} means something else"
        if config is None:
            refused.append(value)
        elif warnings:
            warned = True
            assert f"--{flag.name}" in warnings[0]
        else:
            assert config != Config() or value in _NOTHING, f"--{flag.name} {value} changes nothing, and says nothing"
    if not set(values) - set(refused) - _NOTHING:
        return REFUSED, refused
    return (IGNORED if warned else HONOURED), refused


def _parsed(flag: Flag, *line: str, **environment: str) -> tuple[Config | None, list[str]]:
    try:
        return parsed(*line, **environment)
    except ConfigError as error:
        if f"--{flag.name}" not in str(error):
            raise AssertionError(f"the refusal does not name --{flag.name}: {error}") from error
        return None, []
