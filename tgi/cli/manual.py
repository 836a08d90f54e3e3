"""`tgi man`: manual pages, made from the commands themselves, so that they say what `--help` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tgi import __version__
from tgi.cli.console import UsageFault, nearest
from tgi.cli.exit_codes import EXIT_CODES
from tgi.cli.options import Setting, SettingsCommand

SUMMARY = """Print the manual page of a command, or write all of them.

COMMAND is a command's name, such as `serve` or `cache ls`; without it, the page is tgi's own.
"""


def pages() -> dict[str, str]:
    """Every page in roff by its name: `tgi`, `tgi-serve`, `tgi-cache-ls`."""
    return {name: page(name, command) for name, command in commands()}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that is not hidden, by the name of its page; groups before their commands."""
    from tgi.cli.main import tgi_group  # noqa: PLC0415  (it names this module)

    yield from _below("tgi", tgi_group())


def page(name: str, command: click.Command) -> str:
    """The page of one command, in roff."""
    context = click.Context(command, info_name=name, **command.context_settings)
    summary, _, rest = (command.help or "").partition("\n")
    lines = [
        f'.TH "{name.upper()}" "1" "" "tgi {__version__}" "tgi"',
        ".SH NAME", f"{_escape(name)} \\- {_escape(summary.rstrip('.'))}",
        ".SH SYNOPSIS", f".B {_escape(_spoken(name, command))}",
        _escape(" ".join(command.collect_usage_pieces(context))),
    ]  # fmt: skip
    if rest.strip():
        lines += [".SH DESCRIPTION", *_paragraphs(rest)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            about = (below.help or "").partition("\n")[0] if below else ""
            lines += [
                ".TP",
                f"\\fB{_escape(child)}\\fP",
                _escape(about),
                f"See \\fB{_escape(name)}\\-{_escape(child)}\\fP(1).",
            ]
    lines += [".SH OPTIONS", *_options(command, context)]
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f"\\fB{code}\\fP", _escape(meaning)]
    examples = getattr(command, "examples", ())
    if examples:
        lines += [".SH EXAMPLES", ".nf", *(_escape(example) for example in examples), ".fi"]
    return "\n".join(lines) + "\n"


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name, **command.context_settings)
        for child in command.list_commands(context):
            below = command.get_command(context, child)
            if below is not None:
                yield from _below(f"{name}-{child}", below)


def _spoken(name: str, command: click.Command) -> str:
    """`tgi print-schema` of `tgi-print-schema`: the command's own name keeps its hyphens."""
    own = command.name or ""
    return f"{name.removesuffix(own).replace('-', ' ').strip()} {own}".strip() if name.endswith(f"-{own}") else name


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        names, meaning = record
        yield ".TP"
        yield f"\\fB{_escape(names)}\\fP"
        yield _escape(meaning.replace("\xa0", " ").replace("\u2011", "-"))
        if isinstance(parameter, Setting) and parameter.details.note:
            yield _escape(f"{parameter.details.note}.")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        yield ".PP"
        plain = paragraph.startswith("\b")
        if plain:
            yield ".nf"
        yield from (_escape(line) for line in paragraph.strip("\b\n").split("\n"))
        if plain:
            yield ".fi"


def _escape(text: str) -> str:
    """`text` as roff shows it literally: backslashes, hyphens, and a dot or quote that would begin a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _run(command: tuple[str, ...], output_dir: Path | None) -> None:
    found = pages()
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            (output_dir / f"{name}.1").write_text(text, encoding="utf-8")
        click.echo(f"{len(found)} pages in {output_dir}", err=True)
        return
    wanted = "-".join(("tgi", *command))
    if wanted not in found:
        typed = " ".join(command)
        match = nearest(typed, [name.removeprefix("tgi-") for name in found])
        hint = f"did you mean `{match}`?" if match else "see `tgi --help`"
        raise UsageFault(f"there is no manual page of `{typed}`", hint=hint)
    click.echo(found[wanted], nl=False)


man = SettingsCommand(
    "man",
    params=[
        click.Argument(["command"], nargs=-1, metavar="[COMMAND]..."),
        click.Option(["--output-dir"], type=click.Path(path_type=Path, file_okay=False), metavar="PATH",
                     help="write every page into this folder instead"),
    ],
    callback=_run, help=SUMMARY, examples=("tgi man serve | man -l -", "tgi man --output-dir ~/.local/share/man/man1"),
)  # fmt: skip
