"""The house stays in order: imports go down, files stay small, modules are described and tested (docs/design.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tgi"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

ENGINE_LINES = 1_500
MODEL_LINES = 250
FILE_LINES = 400
FUNCTION_LINES = 60

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
every_file = pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_only_go_down() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_engine_fits_in_one_head() -> None:
    assert sum(lines(path) for path in MODULES if path.parent == PACKAGE / "engine") < ENGINE_LINES


@every_file
def test_a_file_is_short(path: Path) -> None:
    limit = MODEL_LINES if path.parent == PACKAGE / "models" else FILE_LINES
    assert lines(path) <= limit


@every_file
def test_a_function_is_short(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= FUNCTION_LINES, node.name


@every_file
def test_nothing_is_global(path: Path) -> None:
    assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]


@every_module
def test_only_the_command_line_reads_the_environment(path: Path) -> None:
    if path.parent == PACKAGE / "cli":
        return
    for node in ast.walk(tree(path)):
        name = node.attr if isinstance(node, ast.Attribute) else node.name if isinstance(node, ast.alias) else ""
        assert name not in ("environ", "environb", "getenv", "getenvb"), f"line {getattr(node, 'lineno', '?')}"


@every_module
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@every_module
def test_everything_public_is_described(path: Path) -> None:
    module = tree(path)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in [*classes, *functions]:
        assert node.name.startswith("_") or ast.get_docstring(node), f"{node.name} has no docstring"


@every_module
def test_a_module_has_its_test_file(path: Path) -> None:
    module = tree(path)
    if not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(module)):
        return  # constants and declarations only: nothing to run
    inside = path.relative_to(PACKAGE)
    folder = ROOT / "tests" / inside.parent
    mirrored = {
        folder / f"test_{path.stem}.py",
        folder / f"test_{path.parent.name}.py",  # for a package's __init__.py
        ROOT / "tests" / f"test_{path.parent.name}.py",
    }
    if path.stem != "__init__":
        mirrored = {folder / f"test_{path.stem}.py"}
    parity = ROOT / "tests" / "models" / "test_parity.py"
    if inside.parts[0] == "models" and parity.exists() and path.stem in parity.read_text(encoding="utf-8"):
        return
    assert any(test.exists() for test in mirrored), f"expected {sorted(str(p.relative_to(ROOT)) for p in mirrored)}"


def test_the_nix_package_has_the_same_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=!;\s]", line)[0].replace("_", "-") for line in project["dependencies"]}
    package = (ROOT / "nix" / "package.nix").read_text(encoding="utf-8")
    found = re.search(r"\n  dependencies = \[(.*?)\]", package, flags=re.DOTALL)
    assert found is not None
    assert set(found[1].split()) == wanted


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-").splitlines()
    pinned = {line.partition("==")[0] for line in pins}
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        name = re.split(r"[<>=!;\s]", line)[0].replace("_", "-").lower()
        assert name in pinned or name == "pip", name  # a virtual environment brings its own pip


def test_no_file_names_a_place_of_one_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    home = "/" + "work/"  # in two parts, so that this line is no finding
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".nix", ".txt", "") and path.is_file():
            assert home not in path.read_text(encoding="utf-8", errors="replace"), name
