"""Normalisation of hidden states, row by row."""

from __future__ import annotations

from tgi import kernels
from tgi.kernels import Array


class RMSNorm:
    """Divide by the root mean square, multiply by a weight. Source: Zhang and Sennrich, 2019."""

    def __init__(self, weight: Array, eps: float) -> None:
        self.weight = weight  # [columns] float32
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """[..., columns] -> the same shape, contiguous."""
        return kernels.rms_norm(x, self.weight, self.eps)


class LayerNorm:
    """Subtract the mean, divide by the standard deviation, scale and shift. Source: Ba et al., 2016."""

    def __init__(self, weight: Array, bias: Array, eps: float) -> None:
        self.weight = weight  # [columns] float32
        self.bias = bias  # [columns] float32
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """[T, columns] -> [T, columns]."""
        return kernels.layer_norm(x, self.weight, self.bias, self.eps)
