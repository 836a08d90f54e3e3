"""Matrices as they are stored, and how a matmul kernel multiplies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tgi.checkpoint.blocks import dequantize
from tgi.checkpoint.layouts import BLOCKS

INTEGER_LAYOUTS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""Layouts of small integers in groups that divide 32 columns: what 8-bit activations can be multiplied with."""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """One row-major matrix of `rows` outputs by `columns` inputs in a storage layout ("F32", "BF16", "Q4_1", ...).

    `data` is the bytes as stored, uint8 and one-dimensional, `rows * row_bytes` of them; usually a view of a mapped
    file. Block layouts need `columns` to be a multiple of the block's length.
    """

    layout: str
    rows: int
    columns: int
    data: npt.NDArray[np.uint8]
    integer: bool = False
    """Multiply with activations rounded to 8 bits, in integers; without effect on a layout not in INTEGER_LAYOUTS."""
    source: Matrix | None = None
    """What `data` was converted from; outliers are multiplied by that."""
    prepared: dict[str, object] = field(default_factory=dict, init=False, repr=False)
    """What a backend made of `data` to read it faster, by the backend's name; lives as long as the matrix."""

    @property
    def in_integers(self) -> bool:
        """Whether it is multiplied by activations in 8 bits."""
        return self.integer and self.layout in INTEGER_LAYOUTS

    def values(self, columns: Sequence[int]) -> npt.NDArray[np.float32]:
        """Some columns as they were before a conversion: [rows, len(columns)] float32."""
        origin = self.source or self
        length, size = BLOCKS[origin.layout]
        blocks = origin.data.reshape(origin.rows, -1, size)
        out = np.empty((origin.rows, len(columns)), np.float32)
        for place, column in enumerate(columns):
            stored = np.ascontiguousarray(blocks[:, column // length]).reshape(-1)
            out[:, place] = dequantize(origin.layout, stored, length).reshape(origin.rows, length)[:, column % length]
        return out


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """Matrices with the same inputs whose outputs lie side by side: q, k and v stay where they are, in one matmul."""

    parts: tuple[Matrix, ...]
    outliers: list[int] = field(default_factory=list, init=False)
    """Columns whose activations stay out of the groups of 8 bits: see `tgi.kernels.single_out`. Ascending."""
    prepared: dict[str, object] = field(default_factory=dict, init=False, repr=False)
    """As `Matrix.prepared`."""

    @property
    def rows(self) -> int:
        """Outputs of all parts together."""
        return sum(part.rows for part in self.parts)

    @property
    def columns(self) -> int:
        """Inputs, the same for every part."""
        return self.parts[0].columns
