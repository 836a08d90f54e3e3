"""What operations take and give: arrays, and how 16-bit brain floats are held in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""numpy's on the CPU. Layers and model files use operations of `tgi.kernels`, `reshape`, slices and `+` only, so that
a backend for another device can pass torch tensors through them, which have all of these."""

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Layouts of stored floats, and the names that `--dtype` has for them."""

STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(np.uint16),
}  # fmt: skip
"""The type of an array of them. numpy knows no brain floats: uint16 stands for the upper halves of float32."""

_NAN = np.uint32(0x7FC0)
_AT_ONCE = 1 << 18  # values whose temporaries stay in the processor's cache


def encode(values: npt.NDArray[np.float32], layout: str) -> Array:
    """Values as they are stored, rounded to the nearest, ties to even; too large ones become infinite.

    Shapes: any; returns the same, a new array where the layout is another one.
    """
    if layout != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(STORED[layout], copy=False)
    out = np.empty(values.shape, np.uint16)
    flat, bits = out.reshape(-1), np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    for start in range(0, len(flat), _AT_ONCE):
        piece = bits[start : start + _AT_ONCE]
        rounded = (piece + (np.uint32(0x7FFF) + (piece >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
        flat[start : start + _AT_ONCE] = np.where(np.isnan(piece.view(np.float32)), _NAN, rounded)
    return out
