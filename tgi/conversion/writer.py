"""Writes safetensors one tensor after the other, so that a model is never in memory as a whole twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
TORCH_TYPES = {name: dtype for dtype, name in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Outline:
    """A tensor before it is computed."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def write_safetensors(path: Path, outlines: Mapping[str, Outline], tensor: Callable[[str], torch.Tensor]) -> None:
    """Write the tensors of `outlines`, asking `tensor` for each in turn; the file appears whole or not at all.

    Raises: ValueError for a type that the format does not have; OSError.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, outline in outlines.items():
        if outline.dtype not in _TYPES:
            raise ValueError(f"tensor `{name}` has type {outline.dtype}, which safetensors does not know")
        start, end = end, end + math.prod(outline.shape) * outline.dtype.itemsize
        header[name] = {"dtype": _TYPES[outline.dtype], "shape": list(outline.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for name in outlines:
                file.write(tensor(name).detach().contiguous().flatten().view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
