"""Linear maps over weights as they are stored."""

from __future__ import annotations

from tgi import kernels
from tgi.kernels import Array
from tgi.kernels.weights import PackedWeight


class ColumnLinear:
    """`x @ weight.T + bias`, outputs of several matrices side by side."""

    def __init__(self, weight: PackedWeight, bias: Array | None = None) -> None:
        self.weight = weight
        self.bias = bias  # [outputs] float32

    def __call__(self, x: Array) -> Array:
        """[T, inputs] -> [T, outputs] float32."""
        return kernels.matmul(x, self.weight, bias=self.bias)


class RowLinear:
    """`residual + x @ weight.T + bias`: the map back to the hidden size, which ends a block of a decoder."""

    def __init__(self, weight: PackedWeight, bias: Array | None = None) -> None:
        self.weight = weight
        self.bias = bias  # [outputs] float32

    def __call__(self, x: Array, residual: Array) -> Array:
        """[T, inputs], [T, outputs] -> [T, outputs]; `residual` itself, added to in place."""
        return kernels.matmul(x, self.weight, bias=self.bias, residual=residual)
