"""What people see: data on stdout, talk on stderr, and every failure as an `error:` and a `hint:` line.

Rich is imported only by commands that draw something, so that `tgi --help` and errors stay instant.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click
from click.core import ParameterSource

from tgi import __version__
from tgi.errors import TgiError
from tgi.log import escape

if TYPE_CHECKING:
    from rich.console import Console

MESSAGE_LENGTH = 400  # characters of a message shown: a pasted file as a flag's value must not fill the screen
OS_HINTS = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the rights of the file, or choose another place",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.ENOSPC: "free some space, or choose another place",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells say it


class UsageFault(TgiError):
    """Something typed that is no command, option or value. Exit code 2."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Explanation:
    """What to tell about a failure, and how the process ends."""

    message: str
    hint: str | None
    exit_code: int


def colours(stream: TextIO) -> bool:
    """Whether to write colours to `stream`: terminals only, unless LOG_COLORIZE says otherwise; NO_COLOR is obeyed."""
    if os.environ.get("NO_COLOR"):
        return False
    wish = os.environ.get("LOG_COLORIZE", "").strip().lower()
    if wish:
        return wish in ("1", "true", "yes")
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def talk() -> Console:
    """The rich console of stderr. It writes plain lines into pipes, and obeys NO_COLOR and TERM=dumb."""
    from rich.console import Console  # noqa: PLC0415  (40 ms that help and errors do not need)

    return Console(stderr=True, highlight=False, soft_wrap=True)


def report(error: BaseException, *, debug: bool = False) -> int:
    """Say on stderr what went wrong and what to do next.

    Returns: the exit code. The traceback is shown with `debug` only.
    """
    explanation = explain(error)
    if debug:
        traceback.print_exception(error)
    say("error", explanation.message, colour="31")
    if explanation.hint:
        say("hint", explanation.hint, colour="36")
    return explanation.exit_code


def greet(name: str = "tgi", *, json_lines: bool, quiet: bool) -> None:
    """The first line of a server, on stderr or as a log record: before the imports, which take a while."""
    if json_lines:
        logging.getLogger("tgi.cli").info("%s %s", name, __version__)
    elif not quiet:
        print(f"{name} {__version__}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """One `warning:` line on stderr."""
    say("warning", message, colour="33")


def say(label: str, message: str, *, colour: str) -> None:
    """`label: message` on stderr, as one line without control characters; `colour` is an ANSI number."""
    head = f"\x1b[1;{colour}m{label}:\x1b[0m" if colours(sys.stderr) else f"{label}:"
    text = escape(" ".join(message.split()))
    if len(text) > MESSAGE_LENGTH:
        text = text[:MESSAGE_LENGTH] + "..."
    print(head, text, file=sys.stderr, flush=True)


def explain(error: BaseException) -> Explanation:
    """The words and the exit code for any exception."""
    if isinstance(error, TgiError):
        return Explanation(error.message, error.hint, error.exit_code)
    if isinstance(error, click.UsageError):
        return _explain_usage(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Explanation("interrupted", None, INTERRUPTED)
    if isinstance(error, click.ClickException):
        return Explanation(_literal(error.message), None, 1)
    if isinstance(error, OSError) and error.strerror:
        where = f" `{error.filename}`" if error.filename else ""
        hint = OS_HINTS.get(error.errno or 0, "run again with `--debug` for the traceback")
        return Explanation(f"{error.strerror.lower()}{where}", hint, 15 if error.errno == errno.ENOSPC else 1)
    return Explanation(
        f"unexpected {type(error).__name__}: {error}", "this is a bug in tgi; run again with `--debug` and report it", 1
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, if any is."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _explain_usage(error: click.UsageError) -> Explanation:
    context = error.ctx
    path = context.command_path if context else "tgi"
    hint = f"see `{path} --help`"
    message = _literal(error.message)
    if context and (extra := re.match(r"got unexpected extra argument \((\S+)\)", message)):
        if any("--model-id" in parameter.opts for parameter in context.command.params):
            hint = f"did you mean `--model-id {extra[1]}`?"
        message = f"unexpected argument `{extra[1]}`"
    if isinstance(error, click.NoSuchOption):
        message = f"unknown option `{error.option_name}`"
        options = [name for p in context.command.params for name in p.opts] if context else []
        match = nearest(error.option_name.replace("_", "-"), options)
        hint = f"did you mean `{match}`?" if match else hint
    elif isinstance(error, click.MissingParameter):
        message = f"missing {error.param_type or 'argument'} `{_parameter_name(error.param)}`"
    elif isinstance(error, click.BadParameter) and error.param:
        name = _parameter_name(error.param)
        message = f"`{name}`: {message}"
        if isinstance(error.param.type, click.Choice) and (given := re.search(r"`([^`]*)`", _literal(error.message))):
            match = nearest(given[1], error.param.type.choices)
            hint = f"did you mean `{match}`?" if match else hint
        variable = error.param.envvar
        if context and context.get_parameter_source(error.param.name or "") is ParameterSource.ENVIRONMENT:
            hint = f"`{variable}` is set in the environment: change it, or give `{name}` on the command line"
        elif context and context.get_parameter_source(error.param.name or "") is ParameterSource.DEFAULT_MAP:
            hint = f"`{name.lstrip('-')}` is set in tgi.toml: change it there, or give `{name}` on the command line"
    return Explanation(message, hint, 2)


def _parameter_name(parameter: click.Parameter | None) -> str:
    if parameter is None:
        return "?"
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.metavar or (parameter.name or "?").upper()


def _literal(message: str) -> str:
    """Click's sentence in our style: no capital, no full stop, literals in backticks."""
    message = re.sub(r"\. Recognized values: .*", ": use true or false", message)
    message = re.sub(r"'([^']*)'", r"`\1`", message.strip()).removesuffix(".")
    return message[:1].lower() + message[1:]
