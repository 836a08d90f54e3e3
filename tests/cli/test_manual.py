"""Every command has a page that says what its help says, and that `man` shows without a complaint."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tgi.cli import manual
from tgi.cli.exit_codes import EXIT_CODES
from tgi.cli.main import COMMANDS, main

PAGES = manual.pages()


def test_every_command_has_a_page() -> None:
    listed = {name for name, entry in COMMANDS.items() if not entry.hidden}
    assert {"tgi", "tgi-config-show", *(f"tgi-{name}" for name in listed)} <= set(PAGES)


def test_a_page_names_every_option_exit_code_and_example() -> None:
    for name, command in manual.commands():
        text = PAGES[name].replace("\\-", "-")
        context = click.Context(command, info_name=name, resilient_parsing=True)
        for option in command.get_params(context):
            record = option.get_help_record(context)
            assert record is None or record[0].split()[0].strip(",") in text, (name, option)
        assert all(f"\\fB{code}\\fP" in text for code in EXIT_CODES)
        assert all(example.replace("\\", "\\e") in text for example in getattr(command, "examples", ()))


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("name", ["tgi", "tgi-serve", "tgi-config-show"])
def test_man_shows_a_page(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.1").write_text(PAGES[name])
    command = ["man", "--warnings", "-l", str(tmp_path / f"{name}.1")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin"}
    )
    assert done.stderr == ""
    assert "SYNOPSIS" in done.stdout
    assert "EXIT STATUS" in done.stdout


def test_all_pages_are_written_into_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["man", "--output-dir", str(tmp_path / "man1")])
    assert not end.value.code
    assert {file.stem for file in (tmp_path / "man1").iterdir()} == set(PAGES)


def test_lines_that_roff_would_take_for_requests_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    command = click.Command("x", help="Do it.\n\n.TH is no request\n'neither \\ this", callback=lambda: None)
    text = manual.page("tgi-x", command)
    assert "\\&.TH is no request" in text
    assert "\\&'neither \\e this" in text


def test_a_page_that_does_not_exist_is_an_error_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["man", "sevre"])
    assert end.value.code == 2
    assert "did you mean `serve`?" in capsys.readouterr().err
