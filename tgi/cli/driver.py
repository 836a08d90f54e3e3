"""Where the GPU driver is, for a program from Nix on a machine that is not NixOS.

nixpkgs' CUDA libraries look for `libcuda.so.1` in one folder, which only NixOS has. Elsewhere we find the machine's own
and have the engine load it before torch: a later search for the same name then finds the loaded one. `LD_LIBRARY_PATH`
would do it too, and would put the machine's other libraries into every program we start.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")  # in the order they are loaded; without the first there is no driver
NIXOS_FOLDER = Path("run/opengl-driver/lib")
FOLDERS = (
    Path(f"usr/lib/{platform.machine()}-linux-gnu"),  # Debian
    Path("usr/lib64"),  # Fedora
    Path("usr/lib"),  # Arch
    Path("usr/lib/wsl/lib"),
    Path("usr/local/nvidia/lib64"),  # container runtimes
)
TIMEOUT_S = 5
_LISTED = re.compile(r"\s*(\S+) \(([^)]*)\) => (.+)")


@dataclass(frozen=True, slots=True)
class Driver:
    """What the search came to, in words, and what the engine is to load, in order."""

    status: str
    libraries: tuple[str, ...] = ()


def find(environment: Mapping[str, str], *, root: Path = Path("/"), listing: Callable[[], str] | None = None) -> Driver:
    """Search for the driver.

    Order: `TGI_CUDA_DRIVER`, a folder; the dynamic loader's cache; the usual folders below `root`. `listing` is the
    output of `ldconfig -p`; None asks it. Nothing is searched on NixOS, with `TGI_CUDA_DRIVER=off`, or outside Nix,
    where the loader finds the driver by itself.
    """
    chosen = environment.get("TGI_CUDA_DRIVER", "").strip()
    nixos = root / NIXOS_FOLDER / LIBRARIES[0]
    if chosen == "off":
        return Driver("not searched: TGI_CUDA_DRIVER=off")
    if nixos.exists():
        return Driver(f"NixOS's, {nixos}")
    if not chosen and environment.get("TGI_NIX") is None:
        return Driver("not searched: outside Nix the dynamic loader finds it")
    listed = _listed((listing or _ldconfig)())
    folders = [*([Path(chosen)] if chosen else []), *(root / folder for folder in FOLDERS)]
    first = _search(LIBRARIES[0], folders, listed, chosen=bool(chosen))
    if first is None:
        where = ", ".join(str(folder) for folder in folders)
        return Driver(f"none found: no {LIBRARIES[0]} in ldconfig's list nor in {where}")
    beside = [first.parent, *folders]
    others = [_search(name, beside, listed, chosen=True) for name in LIBRARIES[1:]]
    return Driver(f"{first}", tuple(str(path) for path in (first, *others) if path is not None))


@contextmanager
def visible(driver: Driver, environment: MutableMapping[str, str]) -> Iterator[None]:
    """Tell Triton, which links against the driver at run time, where it is: through a folder that holds nothing else.

    The folder and the variable last as long as the block.
    """
    if not driver.libraries or environment.get("TRITON_LIBCUDA_PATH"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tgi-driver-") as folder:
        Path(folder, LIBRARIES[0]).symlink_to(driver.libraries[0])
        environment["TRITON_LIBCUDA_PATH"] = folder
        try:
            yield
        finally:
            del environment["TRITON_LIBCUDA_PATH"]


def _search(name: str, folders: list[Path], listed: Mapping[str, Path], *, chosen: bool) -> Path | None:
    """The first of the files that exists; `chosen` is true when the first folder comes before the loader's list."""
    candidates = [folder / name for folder in folders]
    if name in listed:
        candidates.insert(1 if chosen else 0, listed[name])
    return next((path for path in candidates if path.is_file()), None)


def _listed(text: str) -> dict[str, Path]:
    """The 64-bit libraries of the loader's cache by name, the first of each."""
    found: dict[str, Path] = {}
    for line in text.splitlines():
        match = _LISTED.fullmatch(line)
        if match and ("x86-64" in match[2] or "AArch64" in match[2]):
            found.setdefault(match[1], Path(match[3]))
    return found


def _ldconfig() -> str:
    """The loader's cache; empty where it cannot be read. Its program is often on no user's PATH."""
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
