"""`tgi chat`: talk with a model at the terminal, or through pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tgi.cli.console import colours, report, talk
from tgi.cli.options import SettingsCommand
from tgi.errors import ConfigError, TgiError

if TYPE_CHECKING:
    from tgi.chat.answer import Answer
    from tgi.chat.client import ChatServer
    from tgi.chat.session import Chat

SUMMARY = """Chat with a model of a running server, ours or any OpenAI-compatible one.

Without QUESTION a conversation begins; `/help` shows its commands. With QUESTION, or when something is piped in,
there is one answer: plain text alone on stdout, so that it can be piped on. A file and a QUESTION make one message.
"""
DEFAULT_URL = "http://127.0.0.1:3000"
_SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "stop")


class ChatOption(click.Option):
    """An option whose help ends with its default and its variable, as those of the settings do."""

    def __init__(self, *names: str, title: str, help: str, otherwise: str = "none", **details: Any) -> None:
        super().__init__([*names], help=help, **details)
        self.title = title
        self.otherwise = str(details.get("default", otherwise))  # the default, in words

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Names on the left; meaning, default and variables on the right."""
        if self.hidden:
            return None
        names = sorted(self.opts, key=len)
        left = ", ".join(names) + ("" if self.is_flag else f" {self.metavar}")
        variables = [self.envvar] if isinstance(self.envvar, str) else list(self.envvar or [])
        facts = [] if self.is_flag else [f"default: {self.otherwise}"]
        facts += [f"env: {', '.join(variables)}"] if variables else []
        facts = [fact.replace(" ", "\xa0") for fact in facts]  # not to be broken between lines
        return left, f"{self.help or ''}" + (f"  [{'; '.join(facts)}]" if facts else "")


def _run(
    question: tuple[str, ...], url: str, model: str | None, as_json: bool, model_id: str | None, **given: Any
) -> None:
    if model_id is not None:
        raise ConfigError(
            "`tgi chat` loads no model itself: `--model-id` is a flag of `tgi serve`",
            hint=f"run `tgi serve --model-id {model_id}` in another terminal, then `tgi chat`",
        )
    # Imported late: help must not wait for aiohttp and rich.
    from tgi.chat.client import ChatServer, server_url  # noqa: PLC0415
    from tgi.chat.conversation import Conversation  # noqa: PLC0415
    from tgi.chat.session import Chat  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    server = ChatServer(server_url(url), _api_key(given["api_key"], given["api_key_file"]))
    parameters = {name: given[name] for name in _SAMPLING if given[name] not in (None, ())}
    conversing = not question and sys.stdin is not None and sys.stdin.isatty()
    text = "" if conversing else _piped(" ".join(question))
    name = asyncio.run(_model(server, model, ask=conversing))
    chat = Chat(server, name, parameters, Conversation(given["system"] or ""), _view(as_json))
    if conversing:
        _converse(chat, as_json)
        return
    answer, problem = asyncio.run(chat.ask(text))
    if as_json and (answer.text or problem is None):
        _print_json(answer, problem)
    if problem is not None:
        raise problem
    if answer.finish_reason == "stopped":
        raise KeyboardInterrupt
    if sys.stdout.isatty() and not as_json:
        _footer(answer)


def _converse(chat: Chat, as_json: bool) -> None:
    import platformdirs  # noqa: PLC0415  (as above)

    from tgi import __version__  # noqa: PLC0415
    from tgi.chat.prompt import Prompt  # noqa: PLC0415
    from tgi.chat.session import COMMANDS, Session  # noqa: PLC0415

    history = platformdirs.user_cache_path("tgi") / "chat_history"
    prompt = Prompt(history, tuple(COMMANDS), colour=colours(sys.stdout))
    console = talk()
    console.print(f"tgi {__version__} · {chat.model} · {chat.server.url}", markup=False)
    console.print("/help shows the commands, Ctrl-D leaves", style="dim")
    tell: Callable[[Answer], None] = (lambda answer: _print_json(answer, None)) if as_json else _footer
    prompt.open()
    try:
        Session(chat, prompt, console, report=report, tell=tell).run()
    finally:
        prompt.close()


def _view(as_json: bool) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Where answers appear: as Markdown on a terminal that can draw it, as plain text elsewhere."""
    from tgi.chat.session import PlainView, SilentView, markdown_view  # noqa: PLC0415  (as above)

    if as_json:
        return lambda: contextlib.nullcontext(SilentView())
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return lambda: markdown_view(console)
    return lambda: contextlib.nullcontext(PlainView(escape=sys.stdout.isatty()))


async def _model(server: ChatServer, wanted: str | None, *, ask: bool) -> str:
    """The model to talk with. `ask`: look for the server even where the model's name is known, to fail early.

    Raises: TgiError where there is no server, or where it has several models and none was named.
    """
    if wanted and not ask:
        return wanted
    names = await server.models()
    if wanted or len(names) < 2:
        return wanted or (names[0] if names else "tgi")
    listed = ", ".join(f"`{name}`" for name in names[:8]) + (", ..." if len(names) > 8 else "")
    raise ConfigError(f"`{server.url}` serves {len(names)} models: {listed}", hint=f"choose one: `--model {names[0]}`")


def _api_key(key: str | None, file: str | None) -> str | None:
    if file is None:
        return key
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(
            f"cannot read `--api-key-file {file}`: {why.lower()}", hint="name a file that holds the key"
        ) from error


def _piped(question: str) -> str:
    """The question, with what is piped in after it. Raises: ConfigError where both are empty."""
    piped = ""
    if sys.stdin is not None and not sys.stdin.isatty():
        try:
            piped = sys.stdin.buffer.read().decode().strip()
        except UnicodeDecodeError as error:
            raise ConfigError("stdin is no text", hint="pipe in a text in UTF-8") from error
    text = "\n\n".join(part for part in (question.strip(), piped) if part)
    if not text:
        raise ConfigError("there is no question", hint='pipe one in, or give it: `tgi chat "What is a token?"`')
    return text


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave as after `/exit`, so that the terminal is put back and the history kept."""
    raise SystemExit(128 + number)


def _footer(answer: Answer) -> None:
    talk().print(answer.footer(), style="dim", markup=False)


def _print_json(answer: Answer, problem: TgiError | None) -> None:
    fields = answer.as_json() | ({"error": problem.message} if problem else {})
    click.echo(json.dumps(fields, ensure_ascii=False))


SERVER, ANSWERS, OUTPUT = "Server", "Answers", "Output"
chat = SettingsCommand(
    "chat",
    params=[
        click.Argument(["question"], nargs=-1, metavar="[QUESTION]..."),
        ChatOption("--url", title=SERVER, default=DEFAULT_URL, envvar="TGI_URL", metavar="URL",
                   help="server to talk to; `/v1` may be left out"),
        ChatOption("--model", title=SERVER, envvar="TGI_MODEL", metavar="NAME",
                   help="model to ask; the server's own if it has one"),
        ChatOption("--api-key", title=SERVER, envvar=["API_KEY", "OPENAI_API_KEY"], metavar="KEY",
                   help="key of the server; rather set a variable, other users see command lines"),
        ChatOption("--api-key-file", title=SERVER, envvar="TGI_API_KEY_FILE", metavar="FILE",
                   help="file that holds the key"),
        ChatOption("--system", title=ANSWERS, envvar="TGI_SYSTEM", metavar="TEXT", help="system prompt"),
        ChatOption("--temperature", title=ANSWERS, otherwise="the server's", type=click.FloatRange(min=0), metavar="X",
                   help="randomness: 0 always gives the same answer"),
        ChatOption("--top-p", title=ANSWERS, otherwise="the server's", metavar="X",
                   type=click.FloatRange(0, 1, min_open=True),
                   help="choose among the likeliest tokens that have this share together"),
        ChatOption("--max-tokens", title=ANSWERS, otherwise="the server's", type=click.IntRange(min=1), metavar="N",
                   help="longest answer"),
        ChatOption("--seed", title=ANSWERS, otherwise="the server's", type=click.IntRange(min=0), metavar="N",
                   help="same seed, same answer"),
        ChatOption("--stop", title=ANSWERS, multiple=True, metavar="TEXT",
                   help="end the answer before this text; repeatable"),
        ChatOption("--json", "as_json", title=OUTPUT, is_flag=True,
                   help="print one JSON object an answer: text, usage, times"),
        click.Option(["--model-id"], hidden=True),
    ],
    callback=_run, help=SUMMARY,
    examples=(
        "tgi chat",
        'tgi chat "What is a token?"',
        'tgi chat "Summarise this:" < report.txt',
        "echo hi | tgi chat --url http://gpu-box:8080 --max-tokens 50",
        "tgi chat --api-key-file ~/.key --url https://api.example.com --model NAME",
    ),
)  # fmt: skip
