"""The model files of all programs, derived from one file of real weights: SmolLM2-135M-Instruct, GGUF Q4_1.

It is the file `tgi serve` has by default. Dequantised, its weights are what every other file holds, or rounds again;
so programs with the same precision have the same model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.environments import Environments, run

LLAMA_TYPES = ("F16", "Q8_0", "Q4_0")


class Models:
    """Model files in the work folder, each made by the first who asks for it. Raises: Missing."""

    def __init__(self, environments: Environments, original: Path) -> None:
        self._environments = environments
        self._folder = environments.work / "models"
        self._original = original

    def gguf(self, layout: str) -> Path:
        """The GGUF file of a layout: Q4_1 as it came, others by llama-quantize from its float16 copy."""
        if layout == "Q4_1":
            return self._original

        def make(target: Path) -> None:
            source = self._original if layout == "F16" else self.gguf("F16")
            quantize = str(self._environments.llama() / "llama-quantize")
            run([quantize, "--allow-requantize", str(source), str(target), layout])

        return self._once(f"SmolLM2-135M-Instruct.{layout}.gguf", make)

    def safetensors(self) -> Path:
        """The folder of the float16 checkpoint."""

        def make(target: Path) -> None:
            run(
                [
                    str(self._environments.converter()),
                    str(Path(__file__).with_name("derive.py")),
                    str(self._original),
                    str(target),
                ]
            )

        return self._once("SmolLM2-135M-Instruct-f16", make)

    def openvino(self, weights: str) -> Path:
        """The folder of OpenVINO's files; `weights` is fp32 or int8, as optimum-cli names it."""

        def make(target: Path) -> None:
            python = self._environments.converter()
            source = self.safetensors()
            run([
                str(python), "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", str(source),
                "--task", "text-generation-with-past", "--weight-format", weights, str(target),
            ])  # fmt: skip

        return self._once(f"SmolLM2-135M-Instruct-openvino-{weights}", make)

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make a file or folder beside its place, and move it there when it is whole."""
        target = self._folder / name
        if not target.exists():
            self._environments.say(f"making {name}")
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f"partial-{name}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)
            make(partial)
            os.replace(partial, target)
        return target
