"""Random stored matrices for the kernel tests."""

from __future__ import annotations

import numpy as np

from tgi.checkpoint.layouts import BLOCKS, row_bytes
from tgi.kernels import Matrix

LAYOUTS = tuple(BLOCKS)
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Block layout -> where its half-precision scales lie."""


def random_matrix(
    layout: str, rows: int, columns: int, seed: int = 0, *, any_scale: bool = False, integer: bool = False
) -> Matrix:
    """A matrix of moderate values; with `any_scale`, of every finite half-precision scale, subnormal ones included."""
    random = np.random.default_rng(seed)
    size = row_bytes(layout, columns)
    if layout in SCALES:
        data = random.integers(0, 256, rows * size, dtype=np.uint8)
        blocks = data.reshape(-1, BLOCKS[layout][1])
        for at in SCALES[layout]:
            if any_scale:
                scales = random.integers(0, 1 << 16, len(blocks)).astype(np.uint16)
                scales[(scales & 0x7C00) == 0x7C00] &= 0x83FF
            else:
                scales = (random.standard_normal(len(blocks)) * 0.01).astype(np.float16).view(np.uint16)
            blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    else:
        values = random.standard_normal(rows * columns).astype(np.float32)
        if layout == "BF16":
            values = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        elif layout == "F16":
            values = values.astype(np.float16)
        data = values.view(np.uint8)
    data.flags.writeable = False  # as a view of a mapped file
    return Matrix(layout, rows, columns, data, integer=integer)


def whole_columns(layout: str, columns: int) -> int:
    """`columns` up to whole blocks."""
    length = BLOCKS[layout][0]
    return -(-columns // length) * length
