"""Weights as the library reads them: once in memory, and never longer than their bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.kernels.matrices import random_matrix
from tests.resident import resident_bytes
from tests.tensors import OnTensors
from tgi.checkpoint.layouts import BLOCKS
from tgi.checkpoint.mapping import map_file
from tgi.kernels import Matrix, PackedWeight
from tgi.kernels.prepared import LAYOUTS, PANELS

X = torch.randn(3, 8)


def test_every_stored_layout_is_known() -> None:
    assert tuple(BLOCKS) == LAYOUTS


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
