"""What an engine would be, without reading a weight: the runner's own loading, over a checkpoint that shows headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tgi import kernels
from tgi.checkpoint import Checkpoint, RawTensor, open_checkpoint
from tgi.checkpoint.layouts import row_bytes
from tgi.config import Config
from tgi.kernels.cpu import find_library
from tgi.kernels.dispatch import usable_cores
from tgi.quantization import int8
from tgi.runner.runner import ModelRunner

_FLOATS = {"F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2)}
_FACTS = ("model_type", "dtype", "device", "quantize", "kernels", "vocab_size", "num_blocks", "block_size",
          "max_total_tokens", "max_step_tokens", "max_rows")  # fmt: skip


def survey(config: Config, path: Path) -> dict[str, Any]:
    """The engine's limits and its memory ledger for the model at `path`, as plain values under `EngineReady`'s names.

    Raises: ModelError, ConfigError as the engine would.
    """
    headers = Headers(open_checkpoint(path), config.model.dtype)
    runner = ModelRunner.load(headers, config=config, to_int8=_unwritten_int8)
    return {name: getattr(runner, name) for name in _FACTS} | {"memory": msgspec.to_builtins(runner.memory)}


def _unwritten_int8(layout: str, data: int8.Bytes, columns: int) -> int8.Bytes:
    """As much memory as the converted matrix takes, which nothing touches."""
    rows = len(data) // row_bytes(layout, columns)
    return np.zeros(rows * row_bytes(int8.LAYOUT, columns), np.uint8)


class Headers:
    """A checkpoint whose matrices are never read.

    They stay mapped, and nothing touches their pages; those that `dtype` would convert are memory that nothing touches
    either, in the type and size they would have. Vectors are small, and are themselves.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: str | None) -> None:
        self._checkpoint = checkpoint
        self._layout = next((layout for layout, (name, _) in _FLOATS.items() if name == dtype), None)

    @property
    def config(self) -> dict[str, Any]:
        """See `Checkpoint.config`."""
        return self._checkpoint.config

    def names(self) -> frozenset[str]:
        """See `Checkpoint.names`."""
        return self._checkpoint.names()

    def tensor(self, name: str) -> RawTensor:
        """See `Checkpoint.tensor`."""
        raw = self._checkpoint.tensor(name)
        if len(raw.shape) < 2 or raw.layout not in _FLOATS or self._layout in (None, raw.layout):
            return raw
        assert self._layout is not None
        size = int(np.prod(raw.shape)) * _FLOATS[self._layout][1]
        return RawTensor(raw.name, self._layout, raw.shape, np.zeros(size, np.uint8))


def kernels_here() -> dict[str, Any]:
    """Which kernels an engine would compute with on this machine, on how many threads, and the library they are in."""
    library = find_library()
    return {
        "kernels": kernels.configure(), "threads": usable_cores(), "library": None if library is None else str(library),
    }  # fmt: skip
