"""The bindings refuse what the library would read wrongly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.matrices import random_matrix
from tests.resident import resident_bytes
from tests.tensors import OnTensors
from tgi.checkpoint.layouts import BLOCKS
from tgi.checkpoint.mapping import map_file
from tgi.kernels import Matrix, PackedWeight, cpu
from tgi.kernels.cpu import PANELS, CpuKernels


@pytest.fixture(scope="module")
def native() -> OnTensors:
    """The native backend."""
    path = cpu.find_library()
    if path is None:
        pytest.skip("the native library was not built")
    return OnTensors(CpuKernels(path))


def test_every_stored_layout_is_known() -> None:
    assert tuple(BLOCKS) == cpu.LAYOUTS


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


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (Matrix("Q9_9", 4, 32, np.zeros(4, np.uint8)), "unknown"),
        (Matrix("Q4_1", 4, 33, np.zeros(80, np.uint8)), "multiple"),
        (Matrix("F32", 4, 8, np.zeros(127, np.uint8)), "128 contiguous bytes"),
        (Matrix("F32", 4, 8, np.zeros(256, np.uint8)[::2]), "128 contiguous bytes"),
    ],
)
def test_a_weight_that_is_not_its_bytes_is_refused(native: OnTensors, matrix: Matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.matmul(torch.randn(1, matrix.columns), PackedWeight((matrix,)))


def test_parts_of_different_inputs_are_refused(native: OnTensors) -> None:
    with pytest.raises(ValueError, match="same columns"):
        native.matmul(X, PackedWeight((random_matrix("F32", 4, 8), random_matrix("F32", 4, 16))))


def test_a_weight_is_described_once(native: OnTensors) -> None:
    weight = PackedWeight((random_matrix("F32", 4, 8),))
    native.matmul(X, weight)
    prepared = weight.prepared["cpu"]
    native.matmul(X, weight)
    assert weight.prepared["cpu"] is prepared


@pytest.mark.parametrize("layout", PANELS)
def test_rows_of_a_tied_table_are_the_same_from_its_panels(native: OnTensors, layout: str) -> None:
    made = random_matrix(layout, 50, 512)
    table = Matrix(layout, 50, 512, made.data.copy())
    ids = torch.tensor([0, 49, 15, 16, 31, 7], dtype=torch.int32)
    stored = native.embedding(ids, table)
    native.matmul(torch.randn(1, 512), PackedWeight((table,)))  # the output layer: now there are panels
    table.data[:] = 0  # and nothing else is read
    assert torch.equal(native.embedding(ids, table), stored)


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux shows them")
def test_a_mapped_weight_is_in_memory_once(native: OnTensors, tmp_path: Path) -> None:
    stored = random_matrix("Q4_1", 512, 512)
    path = tmp_path / "weights"
    path.write_bytes(stored.data.tobytes())
    mapped = Matrix("Q4_1", 512, 512, map_file(path))
    x = torch.randn(2, 512)
    expected = native.matmul(x, PackedWeight((stored,)))
    assert torch.equal(native.matmul(x, PackedWeight((mapped,))), expected)
    assert resident_bytes(path) == 0  # the panels are read instead
    ids = torch.tensor([7, 500], dtype=torch.int32)
    assert torch.equal(native.embedding(ids, mapped), native.embedding(ids, stored))
    assert resident_bytes(path) == 0  # as are a tied table's rows
