"""The help of every command at 80 columns; `python -m tests.cli.help_pages` writes the snapshots anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tgi.cli import main

FOLDER = Path(__file__).with_name("help")


def every_command() -> Iterator[tuple[str, click.Command]]:
    """What is typed, and the command, for all commands and the namesakes, hidden ones too."""
    yield from _below("tgi", main.tgi_group())
    yield "text-generation-launcher", main._load(main.COMMANDS["launch"])
    yield "text-generation-benchmark", main._load(main.COMMANDS["bench"])
    for name, entry in main.SERVER_COMMANDS.items():
        yield f"text-generation-server {name}", main._load(entry)


def _below(typed: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield typed, command
    if isinstance(command, main.LazyGroup):
        for name, entry in command.entries.items():
            yield from _below(f"{typed} {name}", main._load(entry))


def text(typed: str, command: click.Command) -> str:
    """The help as it is shown on a terminal of 80 columns."""
    settings: dict[str, Any] = {**command.context_settings, "terminal_width": 80}
    return command.get_help(click.Context(command, info_name=typed, **settings)) + "\n"


def file_of(typed: str) -> Path:
    """Where a command's snapshot is."""
    return FOLDER / f"{typed.replace(' ', '-')}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for typed, command in every_command():
        file_of(typed).write_text(text(typed, command), encoding="utf-8")
