"""The flake is locked and small, has every output it promises, and agrees with the rest of the repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.nix.shim import ROOT, SHIM, flake, needs_nix, nix, value
from tgi.hub.download import DEFAULT_WHEEL

NIXPKGS = {
    "lastModified": 1783224372,
    "narHash": "sha256-8i/87eeoqiGE4yOTjwSA3Eh/ziJRQEmd/unYU+K27sk=",
    "owner": "NixOS",
    "repo": "nixpkgs",
    "rev": "d407951447dcd00442e97087bf374aad70c04cea",
    "type": "github",
}
VERSIONS = Path(__file__).with_name("locked_versions.json")
NOT_IN_NIXPKGS = {"import-linter", "schemathesis"}
LINUX, INTEL = ("x86_64-linux", "aarch64-linux"), ("x86_64-linux",)
SYSTEMS = (*LINUX, "aarch64-darwin")
PACKAGES = {
    "default": SYSTEMS, "tgi": SYSTEMS, "tgi-with-model": SYSTEMS, "tgi-cuda": LINUX, "tgi-cuda-full": LINUX,
    "tgi-rocm": INTEL, "image": LINUX, "image-cuda": LINUX, "image-rocm": INTEL,
}  # fmt: skip
APPS = {name: systems for name, systems in PACKAGES.items() if "image" not in name} | {"push-cache": SYSTEMS}
SHELLS = {
    "default": SYSTEMS, "impure": SYSTEMS, "cuda": LINUX, "impure-cuda": LINUX, "rocm": INTEL, "impure-rocm": INTEL,
}  # fmt: skip
CHECKS = dict.fromkeys(
    ("package", "version", "help", "kernels", "serve", "push-cache", "nix-format", "nix-lint"), SYSTEMS
) | {"module": LINUX, "vm": LINUX}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements() -> list[Requirement]:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def test_the_flake_is_a_table() -> None:
    text = read("flake.nix")
    assert len(text.splitlines()) <= 150
    assert re.findall(r"^\s*inputs\.?(\S*)\s*=", text, flags=re.MULTILINE) == ["nixpkgs.url"]


def test_the_lock_is_the_revision_that_was_evaluated() -> None:
    lock = json.loads(read("flake.lock"))
    assert set(lock["nodes"]) == {"root", "nixpkgs"}
    assert lock["nodes"]["nixpkgs"]["locked"] == NIXPKGS
    original = lock["nodes"]["nixpkgs"]["original"]
    assert f"github:{original['owner']}/{original['repo']}/{original['ref']}" in read("flake.nix")


def test_every_bound_holds_for_the_locked_nixpkgs() -> None:
    versions = json.loads(VERSIONS.read_text(encoding="utf-8"))
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in versions or name in NOT_IN_NIXPKGS, f"{name}: add its version to {VERSIONS.name}"
        if name in versions:
            assert requirement.specifier.contains(versions[name]), f"{requirement}: nixpkgs has {versions[name]}"


@needs_nix
def test_the_written_versions_are_those_of_nixpkgs() -> None:
    facts = json.loads((SHIM / "facts" / "python.json").read_text(encoding="utf-8"))["versions"]
    written = json.loads(VERSIONS.read_text(encoding="utf-8"))
    assert {name: facts[name] for name in written} == written
    assert not NOT_IN_NIXPKGS & set(facts)


def test_security_floors_are_the_versions_pip_installs_and_no_newer_than_needed() -> None:
    pins = dict(line.split("==") for line in read("constraints.txt").split() if "==" in line)
    locked = json.loads(VERSIONS.read_text(encoding="utf-8"))
    raised = dict(re.findall(r'raise "([\w-]+)" "([\d.]+)"', read("nix/security.nix")))
    assert set(raised) == {"aiohttp", "yarl"}
    for name, version in raised.items():
        assert pins[name] == version
        assert Version(locked[name]) < Version(version)
    assert f"aiohttp {raised['aiohttp']}" in read("SECURITY.md")


def test_the_default_model_is_the_one_that_is_downloaded_elsewhere() -> None:
    text = read("nix/default-model.nix")
    name, version = DEFAULT_WHEEL.requirement.split("==")
    assert f'pname = "{name.replace("-", "_")}"' in text
    assert f'version = "{version}"' in text
    assert DEFAULT_WHEEL.member in text
    assert DEFAULT_WHEEL.sha256 in text


def test_the_development_shell_has_what_the_tests_need() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]["test"]
    wanted = {canonicalize_name(Requirement(line).name) for line in extras} - NOT_IN_NIXPKGS - {"ruff"}
    assert set(re.findall(r"ps\.([\w-]+)", read("nix/shells.nix"))) >= wanted


def test_ci_checks_the_flake_and_installs_nix_where_it_is_missing() -> None:
    assert ".ci/flake" in read(".ci/run")
    script = read(".ci/flake")
    assert "install --no-install-recommends -y nix-bin" in script
    assert "SHIM_SERVE=" in script
    for name in (".ci/run", ".ci/flake"):
        done = subprocess.run(["bash", "-n", ROOT / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_entering_the_folder_enters_the_shell() -> None:
    assert read(".envrc").strip() == "use flake"


@needs_nix
def test_every_promised_output_is_there() -> None:
    shown = json.loads(flake("flake show --json"))

    def by_name(output: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for system, attributes in shown[output].items():
            for name in attributes:
                found.setdefault(name, set()).add(system)
        return found

    for output, promised in (("packages", PACKAGES), ("apps", APPS), ("devShells", SHELLS), ("checks", CHECKS)):
        assert by_name(output) == {name: set(systems) for name, systems in promised.items()}, output
    assert set(shown["formatter"]) == set(SYSTEMS)
    assert shown["overlays"]["default"]["type"] == "nixpkgs-overlay"
    assert shown["nixosModules"]["default"]["type"] == "nixos-module"


@needs_nix
def test_the_lock_needs_no_network() -> None:
    done = nix("flake", "metadata", "--json", "--no-update-lock-file", ".")
    assert done.returncode == 0, done.stderr


@needs_nix
def test_only_what_the_package_is_made_of_changes_its_source(tmp_path: Path) -> None:
    tracked = nix("ls-files", "-z", program="git").stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)

    def source() -> str:
        return flake("eval --raw", "#default.src", root=tmp_path)

    def append(name: str, text: str) -> None:
        (tmp_path / name).write_text((tmp_path / name).read_text() + text)

    before = source()
    append("README.md", "\nMore.\n")
    append("nix/image.nix", "\n# More.\n")
    append("deploy/kubernetes/tgi.yaml", "\n# More.\n")
    assert source() == before
    append("tgi/config.py", "\n# More.\n")
    changed = source()
    assert changed != before
    append("tgi/kernels/native/api.cpp", "\n// More.\n")
    assert source() != changed


def package(variant: str, expression: str) -> object:
    """A value of the package `p` of a variant, whose set is `pkgs`."""
    config = f"(import (root + /nix/variants.nix)).{variant}.config"
    overlay = "overlays = [ (import (root + /nix/overlay.nix)) ]"
    return value(f"let pkgs = shim {{ system = ''x86_64-linux''; config = {config}; {overlay}; }}; p = pkgs.tgi; "
                 f"in {expression}")  # fmt: skip


@needs_nix
def test_gpu_kernels_are_in_the_variants_that_can_have_them_only() -> None:
    names = "map (d: d.pname) {}.dependencies"
    gpu = {"bitsandbytes", "flash-attention", "kernels"}

    def of(variant: str, which: str = "p") -> set[str]:
        found = package(variant, names.format(which))
        assert isinstance(found, list)
        return gpu & set(found)

    assert of("cpu") == set()
    assert of("cpu", "(p.override { withBitsandbytes = true; })") == {"bitsandbytes"}
    assert of("cuda") == {"bitsandbytes"}
    assert of("cuda", "pkgs.tgi-full") == gpu
    assert of("rocm") == {"bitsandbytes"}


@needs_nix
def test_flash_attention_is_refused_where_nixpkgs_cannot_build_it() -> None:
    for variant in ("cpu", "rocm"):
        with pytest.raises(AssertionError, match="marked broken"):
            package(variant, "(p.override { withFlashAttn = true; }).drvPath")


@needs_nix
def test_aiohttp_is_at_its_security_floor_in_every_variant() -> None:
    for variant in ("cpu", "cuda", "rocm"):
        found = package(variant, "(pkgs.lib.findFirst (d: d.pname == ''aiohttp'') null p.dependencies).version")
        assert found == "3.14.5"


@needs_nix
@pytest.mark.parametrize(
    ("variant", "which", "driver_off", "model"),
    [("cpu", "p", True, False), ("cuda", "p", False, False), ("cpu", "pkgs.tgi-with-model", True, True)],
)
def test_the_wrapper_tells_the_program_what_the_package_is(
    variant: str, which: str, driver_off: bool, model: bool
) -> None:
    text = package(variant, f"builtins.readFile {which}.specFile")
    assert isinstance(text, str)
    wrapped = json.loads(text)["wrap"]
    assert "--set-default TGI_NIX 1" in wrapped
    assert ("--set-default TGI_CUDA_DRIVER off" in wrapped) is driver_off
    brought = [line for line in wrapped if line.startswith("--set-default TGI_DEFAULT_MODEL /")]
    assert bool(brought) is model
    assert all(line.endswith(Path(DEFAULT_WHEEL.member).name) for line in brought)
