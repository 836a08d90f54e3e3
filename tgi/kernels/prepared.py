"""Weights as the native library reads them: `Matrix` of `native/kernels.h`, in panels where there are any."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from tgi.checkpoint.layouts import row_bytes
from tgi.checkpoint.mapping import forget
from tgi.kernels.addresses import FLOAT32, INT32
from tgi.kernels.arrays import Array
from tgi.kernels.pages import Arena
from tgi.kernels.weights import INTEGER_LAYOUTS, Matrix

# The order of the enumeration in `native/kernels.h`.
LAYOUTS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
# Layout -> its PanelKind, and bytes of PANEL_ROWS rows of a group of columns (of one column, for floats).
PANELS = {
    "Q4_0": (32, 288), "Q4_1": (33, 320), "Q4_K": (34, 384), "Q8_0": (35, 544), "Q5_0": (35, 544), "Q5_1": (36, 576),
    "Q5_K": (37, 640), "Q6_K": (38, 640), "F32": (39, 64), "F16": (40, 32), "BF16": (41, 32),
}  # fmt: skip
EXACT = 64  # added to a PanelKind: as exact as float32
PANEL_ROWS = 16
GROUP = 32
_ARENA = Arena()


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("layout", ctypes.c_int64),
        ("outliers", ctypes.c_void_p),
        ("outlier_count", ctypes.c_int64),
        ("outlier_weights", ctypes.c_void_p),
    )


class Prepared:
    """A weight as the library reads it. The matrices outlive it: it is kept in their `prepared`."""

    __slots__ = ("address", "columns", "count", "matrices", "outliers", "panels", "rows")

    def __init__(self, parts: tuple[Matrix, ...], pack: Callable[..., int] | None = None) -> None:
        """With `pack`, matrices are packed into panels where there are any for their layout."""
        if not parts or any(part.columns != parts[0].columns for part in parts):
            raise ValueError(f"parts need the same columns; given {[part.columns for part in parts]}")
        self.panels: list[npt.NDArray[np.uint8]] = []
        self.outliers: list[Array] = []
        described = [_describe(part) for part in parts]
        if pack is not None:
            described = [self._packed(part, as_stored, pack) for part, as_stored in zip(parts, described, strict=True)]
        self.matrices = (_Matrix * len(parts))(*described)
        self.address = ctypes.addressof(self.matrices)
        self.count = len(parts)
        self.rows = sum(part.rows for part in parts)
        self.columns = parts[0].columns

    def _packed(self, part: Matrix, as_stored: _Matrix, pack: Callable[..., int]) -> _Matrix:
        if part.layout not in PANELS:
            return as_stored
        kind, group_bytes = PANELS[part.layout]
        integers = part.layout in INTEGER_LAYOUTS
        groups = -(-part.rows // PANEL_ROWS) * (part.columns // GROUP if integers else part.columns)
        panels = _ARENA.take(groups * group_bytes)
        self.panels.append(panels)
        pack(ctypes.addressof(as_stored), kind, panels.ctypes.data)
        forget(part.data)  # the panels are all that is read from now on
        exact = 0 if part.in_integers else EXACT
        packed = _Matrix(panels.ctypes.data, part.rows, part.columns, kind + exact)
        # A table that is the output layer too: its rows are read from the panels. In place: recordings name it.
        table = cast("Prepared", part.prepared.setdefault("cpu", Prepared((part,))))
        table.matrices[0] = packed
        table.panels.append(panels)
        return packed

    def single_out(self, parts: tuple[Matrix, ...], columns: Sequence[int]) -> None:
        """In place: recordings name the matrices."""
        places = np.array(columns, INT32)
        self.outliers = [places]
        for part, matrix in zip(parts, self.matrices, strict=True):
            if not part.in_integers:
                continue
            count = -(-part.rows // PANEL_ROWS)
            weights = np.zeros((count * PANEL_ROWS, len(places)), FLOAT32)
            weights[: part.rows] = part.values(columns)
            forget((part.source or part).data)
            panels = np.ascontiguousarray(weights.reshape(count, PANEL_ROWS, len(places)).transpose(0, 2, 1))
            self.outliers.append(panels)
            matrix.outliers, matrix.outlier_count = places.ctypes.data, len(places)
            matrix.outlier_weights = panels.ctypes.data


def _describe(matrix: Matrix) -> _Matrix:
    expected = matrix.rows * row_bytes(matrix.layout, matrix.columns)
    data = matrix.data
    if data.ndim != 1 or data.itemsize != 1 or data.size != expected or not data.flags.c_contiguous:
        raise ValueError(
            f"{matrix.rows} x {matrix.columns} of {matrix.layout} is {expected} contiguous bytes; "
            f"given {data.dtype} {data.shape}"
        )
    return _Matrix(data.ctypes.data, matrix.rows, matrix.columns, LAYOUTS.index(matrix.layout))
