"""The scripts complete commands, flags, models and values: in the shells themselves, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tgi.cli.completion import SHELLS, script

ZSH = """
compdef() {}; _describe() { print -l -- ${(P)2} ${(P)3} }; compadd() { shift 3; print -l -- ${(P)@[-1]} }
_files() { print FILES }
source "$SCRIPT"; words=(%s); CURRENT=%d; _tgi_completion
"""
ENDS = {
    "bash": 'source "$SCRIPT"; COMP_WORDS=(%s); COMP_CWORD=%d; _tgi_completion tgi; printf "%%s\\n" "${COMPREPLY[@]}"',
    "zsh": ZSH,
    "fish": 'source "$SCRIPT"; complete -C "%s"',
}


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds `tgi`, and one model in the hub's cache."""
    (tmp_path / "hub" / "models--owner--small-model").mkdir(parents=True)
    program = tmp_path / "tgi"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tgi "$@"\n')
    program.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2]),
        "HF_HUB_CACHE": str(tmp_path / "hub"), "SCRIPT": str(tmp_path / "script"), "HOME": str(tmp_path),
    }  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ser"], "serve"),
        (["config", "sh"], "show"),
        (["serve", "--max-tot"], "--max-total-tokens"),
        (["serve", "--quantize", "bitsandbytes-n"], "bitsandbytes-nf4"),
        (["serve", "--model-id", "own"], "owner/small-model"),
        (["--model-id", "own"], "owner/small-model"),
    ],
)
def test_a_shell_completes(machine: dict[str, str], shell: str, typed: list[str], offered: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    Path(machine["SCRIPT"]).write_text(script(shell))
    words = " ".join(["tgi", *typed])
    end = ENDS[shell] % ((words,) if shell == "fish" else (words, len(typed) + (shell == "zsh")))
    flags = ["-f"] if shell == "zsh" else []
    done = subprocess.run([program, *flags, "-c", end], env=machine, capture_output=True, text=True, check=False)
    assert offered in [word.split("\t")[0].split(":")[0] for word in done.stdout.split("\n")], (
        done.stdout,
        done.stderr,
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_by_the_command(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tgi", "completion", shell], capture_output=True, text=True, check=True
    )
    assert done.stdout == script(shell) + "\n"
    assert "_TGI_COMPLETE" in done.stdout


def test_an_unknown_command_before_the_cursor_is_no_error(machine: dict[str, str]) -> None:
    variables = {"_TGI_COMPLETE": "bash_complete", "COMP_WORDS": "tgi nonsense --", "COMP_CWORD": "2"}
    done = subprocess.run(["tgi"], env=machine | variables, capture_output=True, text=True, check=False)
    assert done.stderr == ""
