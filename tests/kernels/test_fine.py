"""Exact products of nibbles: activations meet them in integers of 22 bits, as close as sums in float32 are."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from tests.kernels.matrices import random_matrix, whole_columns
from tgi.checkpoint.blocks import dequantize
from tgi.kernels import Matrix, PackedWeight

LAYOUTS = ("Q4_0", "Q4_1", "Q4_K")


def packed(layout: str, rows: int, columns: int) -> PackedWeight:
    return PackedWeight((random_matrix(layout, rows, columns),))


@pytest.fixture(autouse=True)
def _native(path: str) -> None:
    if path == "torch":
        pytest.skip("torch multiplies in float32")


def rms(error: torch.Tensor) -> float:
    return error.double().pow(2).mean().sqrt().item()


def eight_lanes(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sums in float32 as plain AVX2 code has them. How many lanes torch's library has, and so its error, varies."""
    lanes = torch.zeros(len(x), len(values), 8)
    for column in range(0, x.shape[1], 8):
        lanes += x[:, None, column : column + 8] * values[:, column : column + 8]
    return lanes.sum(-1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_products_are_as_close_as_sums_in_float32(ops: ModuleType, layout: str, spread: float) -> None:
    columns = whole_columns(layout, 1536)
    weight = packed(layout, 70, columns)
    x = torch.randn(21, columns) * 10.0 ** (spread * torch.randn(21, columns))  # a few are far larger than others
    stored = weight.parts[0]
    values = torch.from_numpy(dequantize(stored.layout, stored.data, columns)).double()
    expected = x.double() @ values.T
    found, in_float32 = (
        result.double() - expected for result in (ops.matmul(x, weight), eight_lanes(x, values.float()))
    )
    if not spread:  # as activations are
        assert rms(found) <= 2 * rms(in_float32)
    largest = x.abs().double().reshape(21, -1, 32).amax(2).repeat_interleave(32, 1)
    steps, sums = largest @ values.abs().T * 2.0**-21.8, x.abs().double() @ values.abs().T * 4e-7
    assert (found.abs() <= steps + sums).all()


def test_whole_numbers_are_multiplied_without_an_error(ops: ModuleType) -> None:
    integers = np.arange(64, dtype=np.float32) * 32768 - 2**20
    integers[::2] += 12345
    integers[[0, 32]] = 112 * 2**14  # a step is 1
    stored = random_matrix("Q4_1", 16, 64)
    blocks = stored.data.copy().reshape(-1, 20)
    blocks[:, :4] = np.array([1.0, 0.0], np.float16).view(np.uint8)
    weight = PackedWeight((Matrix("Q4_1", 16, 64, blocks.reshape(-1)),))
    values = dequantize("Q4_1", blocks.reshape(-1), 64).astype(np.float64)
    expected = (values * integers).reshape(16, 2, 32).sum(axis=2).astype(np.float32)  # a group is rounded once
    wanted = np.stack([expected[:, 0] + expected[:, 1], -expected[:, 0] - expected[:, 1]])
    for times in (1, 2, 12):  # few tokens and many are multiplied in other ways
        found = ops.matmul(torch.from_numpy(np.tile([integers, -integers], (times, 1))), weight).numpy()
        np.testing.assert_array_equal(found, np.tile(wanted, (times, 1)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_most_that_integers_can_reach_does_not_overflow(ops: ModuleType, sign: float) -> None:
    for layout, size, most in (("Q4_1", 20, 15), ("Q4_0", 18, 7)):
        data = np.full((16, 2 * size), 255, np.uint8)
        blocks = data.reshape(-1, size)
        blocks[:, :2] = np.array([1.0], np.float16).view(np.uint8)
        if layout == "Q4_1":
            blocks[:, 2:4] = 0
        weight = PackedWeight((Matrix(layout, 16, 64, data.reshape(-1)),))
        found = ops.matmul(torch.full((3, 64), 3.0 * sign), weight)
        assert (found == sign * most * 3 * 64).all(), layout
