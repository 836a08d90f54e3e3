"""The definition as a backend: `reference.py` on tensors over the memory of arrays. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgi.kernels import reference
from tgi.kernels.arrays import Array
from tgi.kernels.weights import Matrix, PackedWeight


class TorchKernels:
    """The operations of `tgi.kernels`, by torch on one thread: what is reduced is then reduced in one order."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def embedding(self, ids: Array, table: Matrix) -> Array:
        """See `tgi.kernels.embedding`."""
        return _array(_on_tensors(reference.embedding, ids, table))

    def take(self, x: Array, indices: Array) -> Array:
        """See `tgi.kernels.take`."""
        return _array(_on_tensors(reference.take, x, indices))

    def matmul(
        self, x: Array, weight: PackedWeight, *, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """See `tgi.kernels.matmul`."""
        out = _on_tensors(reference.matmul, x, weight, bias=bias, residual=residual)
        return _array(out) if residual is None else residual

    def single_out(self, weight: PackedWeight, columns: Sequence[int]) -> None:
        """See `tgi.kernels.single_out`."""
        reference.single_out(weight, columns)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """See `tgi.kernels.rms_norm`."""
        return _array(_on_tensors(reference.rms_norm, x, weight, eps))

    def layer_norm(self, x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
        """See `tgi.kernels.layer_norm`."""
        return _array(_on_tensors(reference.layer_norm, x, weight, bias, eps))

    def rotary(self, q: Array, k: Array, cos: Array, sin: Array, *, interleaved: bool) -> None:
        """See `tgi.kernels.rotary`."""
        _on_tensors(reference.rotary, q, k, cos, sin, interleaved=interleaved)

    def write_kv(self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array) -> None:
        """See `tgi.kernels.write_kv`."""
        _on_tensors(reference.write_kv, k, v, k_cache, v_cache, slot_mapping)

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        query_starts: Array,
        context_lens: Array,
        block_tables: Array,
        *,
        scale: float,
        window: int = 0,
    ) -> Array:
        """See `tgi.kernels.attention`."""
        places = query_starts, context_lens, block_tables
        return _array(_on_tensors(reference.attention, q, k_cache, v_cache, *places, scale=scale, window=window))

    def gated(self, gate_up: Array, activation: str) -> Array:
        """See `tgi.kernels.gated`."""
        return _array(_on_tensors(reference.gated, gate_up, activation))

    def activate(self, x: Array, activation: str) -> Array:
        """See `tgi.kernels.activate`."""
        return _array(_on_tensors(reference.activate, x, activation))

    def greedy(self, logits: Array) -> tuple[Array, Array]:
        """See `tgi.kernels.greedy`."""
        token_ids, logprobs = _on_tensors(reference.greedy, logits)
        return _array(token_ids), _array(logprobs)


def _on_tensors(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """`function` on tensors that share the arrays' memory, so that what it writes in place is written into them."""
    try:
        return function(*map(_tensor, arguments), **{name: _tensor(value) for name, value in named.items()})
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise


def _tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.uint16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def _array(tensor: Tensor) -> Array:
    return tensor.numpy()
