"""Nix as the tests use it: offline, with the stand-in for nixpkgs that may lie beside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHIM = ROOT.parent / "shared" / "nix-shim"
SETTINGS = {
    "experimental-features": "nix-command flakes",
    "substituters": "",
    "builders": "",
    "flake-registry": "",
    "build-users-group": "",
    "sandbox": "false",
    "warn-dirty": "false",
}

needs_nix = pytest.mark.skipif(
    shutil.which("nix") is None or not SHIM.is_dir(),
    reason="needs Nix, and the stand-in for nixpkgs beside the checkout",
)


def nix(*arguments: str | Path, program: str = "nix") -> subprocess.CompletedProcess[str]:
    """Run Nix without a network."""
    settings = "\n".join(f"{name} = {value}" for name, value in SETTINGS.items())
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
                          env={**os.environ, "NIX_CONFIG": settings})  # fmt: skip


def flake(command: str, attribute: str = "", *arguments: str, root: Path = ROOT) -> str:
    """stdout of a command on an attribute of the flake at `root`: the files git tracks, or all without a `.git`."""
    place = str(root) if (root / ".git").exists() else f"path:{root}"
    done = nix(*command.split(), "--override-input", "nixpkgs", f"path:{SHIM}", *arguments, f"{place}{attribute}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(expression: str) -> subprocess.CompletedProcess[str]:
    """Evaluate an expression in which `nixpkgs` is the stand-in, `shim` its packages, `root` the repository."""
    scope = (
        f"let shim = import {SHIM}; nixpkgs = (import {SHIM}/flake.nix).outputs {{ self = null; }}; root = {ROOT}; in "
    )
    return nix("--eval", "--strict", "--json", "-E", scope + expression, program="nix-instantiate")


def value(expression: str) -> Any:
    """The value of an expression that evaluates, as `evaluate`."""
    done = evaluate(expression)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
