"""`push-cache` pushes what was built, and refuses before it builds what it could not push."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "nix" / "push-cache.sh"
FAKE_NIX = """#!/bin/sh
echo "nix $*" >> "$LOG"
case "$1 $*" in
    eval*) printf demo-system ;;
    *broken*) exit 1 ;;
    *) for last; do :; done; echo "/store/$last" ;;
esac
"""
FAKE_CACHIX = '#!/bin/sh\necho "cachix $* $(cat)" >> "$LOG"\n'


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of programs that write down how they were called."""
    for name, text in (("nix", FAKE_NIX), ("cachix", FAKE_CACHIX)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def push(tools: Path, *arguments: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit code, stderr and the calls made; the options are those that Nix's writer of scripts sets."""
    log = tools / "log"
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(log), **variables}
    done = subprocess.run(["bash", "-euo", "pipefail", SCRIPT, *arguments], capture_output=True, text=True, check=False,
                          env=environment)  # fmt: skip
    return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []


READY = {"CACHIX_CACHE": "demo", "CACHIX_AUTH_TOKEN": "secret"}


@pytest.mark.parametrize("missing", READY)
@pytest.mark.parametrize("value", [None, ""])
def test_it_refuses_without_a_cache_or_a_token_before_anything_is_built(
    tools: Path, missing: str, value: str | None
) -> None:
    variables = {name: text for name, text in READY.items() if name != missing}
    code, said, calls = push(tools, ".#tgi", **variables, **({missing: value} if value is not None else {}))
    assert (code, calls) == (2, [])
    assert f"{missing} is not set" in said


def test_each_thing_is_built_and_its_paths_pushed(tools: Path) -> None:
    code, _, calls = push(tools, ".#tgi", ".#tgi-cuda", **READY)
    assert code == 0
    assert calls == [
        "nix build --no-link --print-out-paths .#tgi",
        "cachix push demo /store/.#tgi",
        "nix build --no-link --print-out-paths .#tgi-cuda",
        "cachix push demo /store/.#tgi-cuda",
    ]


def test_without_arguments_the_program_and_the_shell_are_pushed(tools: Path) -> None:
    _, _, calls = push(tools, **READY)
    pushed = [call for call in calls if call.startswith("cachix")]
    assert pushed == ["cachix push demo /store/.#tgi", "cachix push demo /store/.#devShells.demo-system.default"]


def test_nothing_is_pushed_after_a_failed_build(tools: Path) -> None:
    code, _, calls = push(tools, ".#broken", ".#tgi", **READY)
    assert code == 1
    assert not [call for call in calls if call.startswith("cachix")]
