"""Help fits, says everything, comes at once, and changes only on purpose."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from tests.cli.help_pages import FOLDER, every_command, file_of, text
from tgi.cli.options import Setting

COMMANDS = dict(every_command())
each_command = pytest.mark.parametrize("typed", COMMANDS)


@each_command
def test_help_is_as_it_was(typed: str) -> None:
    shown = file_of(typed).read_text(encoding="utf-8")
    assert text(typed, COMMANDS[typed]) == shown, "run `python -m tests.cli.help_pages` and look at what changed"


def test_no_page_is_left_of_a_command_that_is_gone() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {typed.replace(" ", "-") for typed in COMMANDS}


@each_command
def test_no_line_is_longer_than_80_columns(typed: str) -> None:
    assert max(len(line) for line in text(typed, COMMANDS[typed]).splitlines()) <= 80


@each_command
def test_every_option_says_what_it_is_for_and_a_setting_its_default_and_variable(typed: str) -> None:
    command = COMMANDS[typed]
    context = click.Context(command, info_name=typed)
    for option in (p for p in command.get_params(context) if isinstance(p, click.Option) and not p.hidden):
        record = option.get_help_record(context)
        assert record is not None
        meaning = record[1].replace("\xa0", " ").replace("\u2011", "-")
        assert meaning.strip(), option.name
        if isinstance(option, Setting):
            assert "default:" in meaning, option.name
            assert f"env: {option.envvar}" in meaning, option.name


@each_command
def test_every_page_ends_with_examples(typed: str) -> None:
    assert "\nExamples:\n  " in text(typed, COMMANDS[typed])


def test_tgi_alone_names_the_commands_by_task_two_examples_and_where_to_read_on() -> None:
    done = subprocess.run([sys.executable, "-m", "tgi"], capture_output=True, text=True, check=True)
    assert done.stdout == file_of("tgi").read_text(encoding="utf-8")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in ("Serve:", "Use:", "Models:", "Help:")] == [
        "Serve:",
        "Use:",
        "Models:",
        "Help:",
    ]
    examples = lines[lines.index("Examples:") + 1 :]
    assert len([line for line in examples if line.startswith("  tgi ")]) == 2
    assert lines[-1].startswith("Docs: ")
