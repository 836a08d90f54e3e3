"""Feed-forward blocks of a decoder layer."""

from __future__ import annotations

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.linear import ColumnLinear, RowLinear


class GatedMLP:
    """`down(activation(gate(x)) * up(x))`. Source: GLU variants (Shazeer, 2020)."""

    def __init__(self, gate_up: ColumnLinear, down: RowLinear, activation: str) -> None:
        self.gate_up = gate_up
        self.down = down
        self.activation = activation

    def __call__(self, x: Array, residual: Array) -> Array:
        """[T, hidden], [T, hidden] -> [T, hidden]; `residual` is added to in place."""
        return self.down(kernels.gated(self.gate_up(x), self.activation), residual)


class MLP:
    """`down(activation(up(x)))`."""

    def __init__(self, up: ColumnLinear, down: RowLinear, activation: str) -> None:
        self.up = up
        self.down = down
        self.activation = activation

    def __call__(self, x: Array, residual: Array) -> Array:
        """[T, hidden], [T, hidden] -> [T, hidden]; `residual` is added to in place."""
        return self.down(kernels.activate(self.up(x), self.activation), residual)
