"""Layers are tested with tensors."""

from __future__ import annotations

from tests.tensors import kernels_take_tensors

__all__ = ["kernels_take_tensors"]
