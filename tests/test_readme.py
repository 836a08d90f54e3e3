"""What the README tells people to type works when it is typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import LiveServer
from tests.nix.test_flake import PACKAGES
from tgi.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every command of the README's shell blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def of(program: str) -> list[str]:
    return [command for command in commands() if shlex.split(command)[0] == program]


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_every_command_is_of_a_kind_that_is_tested_here() -> None:
    assert commands()
    assert {shlex.split(command)[0] for command in commands()} <= {"make", "curl", "tgi", "nix"}


@pytest.mark.parametrize("command", of("make"))
def test_a_make_command_names_a_target_and_passes_its_flags_on(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    plan = run([*words, "-n", "--always-make", f"STAMPS={tmp_path}"], MAKEFLAGS="")
    assert plan.returncode == 0, plan.stderr
    assert "-m venv .venv" in plan.stdout
    if words[1] == "serve":
        arguments = next((word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")), "")
        assert f".venv/bin/tgi serve {arguments}".rstrip() in plan.stdout
    else:
        assert all(tool in plan.stdout for tool in ("pytest", "ruff check", "ruff format", "mypy", "lint-imports"))


def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
    assert "make test" in commands()


@pytest.mark.parametrize("command", of("tgi"))
def test_a_tgi_command_succeeds(command: str) -> None:
    done = run([sys.executable, "-m", *shlex.split(command)])
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", of("curl"))
def test_a_curl_command_is_answered(command: str, live_server: LiveServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert "http://127.0.0.1:3000/" in command
    done = run(shlex.split(command.replace("http://127.0.0.1:3000", live_server.url)))
    assert done.returncode == 0, done.stderr
    if "_stream" in command:
        events = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("data:")]
        assert len(events) > 1
        assert events[-1]["generated_text"]
    else:
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("command", of("nix"))
def test_a_nix_command_runs_a_command_of_ours(command: str) -> None:
    words = shlex.split(command)
    if "run" in words:
        package = words[words.index("run") + 1]
        assert package == "." or package.removeprefix(".#") in PACKAGES
        assert words[words.index("--") + 1] in COMMANDS
    else:
        assert words[1:] in (["develop"], ["flake", "check"])


def test_the_first_nix_command_needs_no_settings() -> None:
    assert "--extra-experimental-features" in shlex.split(of("nix")[0])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_a_link_leads_to_a_file_of_the_repository(target: str) -> None:
    assert (ROOT / target).exists()
