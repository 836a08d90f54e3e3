"""The process that renders chat templates: one request at a time, within limits that end it when they are passed."""

from __future__ import annotations

import contextlib
import socket

import msgspec
from msgspec import Struct

from tgi.errors import EngineGone, TemplateError
from tgi.footprint import settle
from tgi.server.sandbox import confine, limited_cpu
from tgi.server.templates import ChatTemplate, Facts, ForbiddenTemplate, wants_argument_text
from tgi.wire import Channel

CPU_S = 1.0  # of one rendering
MEMORY_BYTES = 1 << 30  # of address space, beyond what the process has when it is ready
PROCESS_NAME = "tgi-templates"

_WARM_UP = r"""{{ '\n\u00e9' | tojson }}{{ strftime_now('%c') }}{{ [1] | pprint }}{{ nothing.at_all }}"""


class Render(Struct, frozen=True, tag=True, kw_only=True):
    """One rendering that is asked for. JSON travels as text: integers of any size, and the order of keys."""

    template: str  # its name
    messages: bytes
    extra: bytes = b"null"
    tools: bytes = b"null"
    add_generation_prompt: bool = True
    continued: bool | None = None


class Known(Struct, frozen=True, tag=True):
    """The first message of the worker: what its templates expect."""

    facts: dict[str, Facts]


class Rendered(Struct, frozen=True, tag=True):
    """A prompt."""

    prompt: str


class Refused(Struct, frozen=True, tag=True):
    """Why there is no prompt."""

    message: str
    forbidden: bool = False


Reply = Known | Rendered | Refused


def main(sock: socket.socket, parent_pid: int, sources: dict[str, str], tokens: dict[str, str]) -> None:
    """The life of the worker: until its socket is closed, or a rendering passes its limits."""
    _warm_up()
    settle()
    confine(PROCESS_NAME, parent_pid, MEMORY_BYTES)
    channel: Channel[Reply, Render] = Channel(sock, Render)
    with contextlib.suppress(EngineGone), limited_cpu(CPU_S):
        templates = {name: ChatTemplate(source, **tokens) for name, source in sources.items()}
        for template in templates.values():
            template.facts = msgspec.structs.replace(template.facts, argument_text=wants_argument_text(template))
        channel.send(Known({name: template.facts for name, template in templates.items()}))
    with contextlib.suppress(EngineGone):
        while True:
            request = channel.receive()
            with limited_cpu(CPU_S):
                reply = _render(templates[request.template], request)
            channel.send(reply)


def _warm_up() -> None:
    """Load what is loaded on first use, such as codecs and the time zone: later, no file can be opened."""
    with contextlib.suppress(TemplateError):
        ChatTemplate(_WARM_UP).render([], continued=False)


def _render(template: ChatTemplate, request: Render) -> Rendered | Refused:
    try:
        prompt = template.render(
            msgspec.json.decode(request.messages), msgspec.json.decode(request.extra),
            tools=msgspec.json.decode(request.tools), add_generation_prompt=request.add_generation_prompt,
            continued=request.continued,
        )  # fmt: skip
        prompt.encode()  # a template may cut a character written as two surrogates
    except UnicodeEncodeError:
        return Refused("Template error: the prompt is not valid Unicode")
    except TemplateError as error:
        return Refused(str(error), isinstance(error, ForbiddenTemplate))
    return Rendered(prompt)
