"""The bindings refuse what the library would read wrongly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.matrices import random_matrix
from tests.tensors import OnTensors
from tgi.kernels import PackedWeight


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


X, WEIGHT = torch.randn(3, 8), PackedWeight((random_matrix("F32", 4, 8),))
HEADS, CACHE = torch.randn(3, 2, 8), torch.zeros(4, 4, 2, 8)
SLOTS, TABLE = torch.arange(3), ints(1, 2)[None]

MISTAKES: dict[str, Callable[[OnTensors], object]] = {
    "columns": lambda k: k.matmul(torch.randn(3, 9), WEIGHT),
    "float32": lambda k: k.matmul(X.double(), WEIGHT),
    "last dimension": lambda k: k.matmul(torch.randn(8, 3).T, WEIGHT),
    "bias": lambda k: k.matmul(X, WEIGHT, bias=torch.randn(5)),
    "residual": lambda k: k.matmul(X, WEIGHT, residual=torch.randn(3, 5)),
    "`residual` must be a contiguous": lambda k: k.matmul(X, WEIGHT, residual=torch.randn(4, 3).T),
    "`ids` must be": lambda k: k.embedding(torch.tensor([1]), WEIGHT.parts[0]),
    "weight": lambda k: k.rms_norm(X, torch.ones(7), 1e-5),
    "2 or 3 dimensions": lambda k: k.rms_norm(X[0], torch.ones(8), 1e-5),
    "tokens, heads, head_dim": lambda k: k.rotary(X, X, X, X, interleaved=False),
    "cannot rotate 12": lambda k: k.rotary(HEADS, HEADS, torch.ones(3, 6), torch.ones(3, 6), interleaved=False),
    "`cos` must have": lambda k: k.rotary(HEADS, HEADS, torch.ones(2, 4), torch.ones(3, 4), interleaved=False),
    "caches must both": lambda k: k.write_kv(HEADS, HEADS, CACHE, CACHE.half(), SLOTS),
    "of one type": lambda k: k.write_kv(HEADS, HEADS, CACHE[:, :, :1], CACHE[:, :, :1], SLOTS),
    "caches must be contiguous": lambda k: k.write_kv(
        HEADS, HEADS, CACHE.transpose(0, 1), CACHE.transpose(0, 1), SLOTS
    ),
    "slot_mapping": lambda k: k.write_kv(HEADS, HEADS, CACHE, CACHE, SLOTS[:2]),
    "do not fit": lambda k: k.attention(HEADS, CACHE, CACHE, ints(0, 3), ints(9), TABLE, scale=1.0),
    "contexts \\[2\\]": lambda k: k.attention(HEADS, CACHE, CACHE, ints(0, 3), ints(2), TABLE, scale=1.0),
    "queries \\[0, 4\\]": lambda k: k.attention(HEADS, CACHE, CACHE, ints(0, 4), ints(5), TABLE, scale=1.0),
    "cache of 4 blocks": lambda k: k.attention(HEADS, CACHE, CACHE, ints(0, 3), ints(3), ints(4, 0)[None], scale=1.0),
    "3 heads": lambda k: k.attention(torch.randn(3, 3, 8), CACHE, CACHE, ints(0, 3), ints(3), TABLE, scale=1.0),
    "even": lambda k: k.gated(torch.randn(3, 7), "silu"),
    "swish": lambda k: k.activate(X, "swish"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_told(native: OnTensors, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MISTAKES[message](native)
