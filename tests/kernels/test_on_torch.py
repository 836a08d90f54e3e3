"""The definition computes on arrays: in their own memory, and with numpy's word for too little of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.matrices import random_matrix
from tgi.kernels import PackedWeight, reference
from tgi.kernels.on_torch import TorchKernels

X = np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)


def test_what_is_written_in_place_is_written_into_the_array() -> None:
    weight, residual = PackedWeight((random_matrix("F32", 5, 8),)), np.ones((3, 5), np.float32)
    product = TorchKernels().matmul(X, weight)
    assert TorchKernels().matmul(X, weight, residual=residual) is residual
    np.testing.assert_array_equal(residual, product + 1)


def test_brain_floats_are_kept_in_uint16() -> None:
    cache = np.zeros((2, 1, 2, 4, 1), np.uint16)
    heads = X[:, :, None][:2].reshape(2, 8, 1)[:, :4]
    TorchKernels().write_kv(heads, heads, cache[0].reshape(1, 2, 4, 1), cache[1].reshape(1, 2, 4, 1), np.arange(2))
    expected = torch.from_numpy(heads.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(cache[0].reshape(2, 4, 1), expected)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", MemoryError),
        ("something else", RuntimeError),
    ],
)
def test_too_little_memory_is_a_memory_error(
    message: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(reference, "gated", fails)
    with pytest.raises(error, match=message[-9:]):
        TorchKernels().gated(X, "silu")
