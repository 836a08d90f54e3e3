"""Multiplication in integers: what is rounded, and that nothing else is."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from tests.kernels.matrices import random_matrix, whole_columns
from tgi import kernels
from tgi.checkpoint.blocks import dequantize
from tgi.kernels import PackedWeight, reference
from tgi.kernels.weights import INTEGER_LAYOUTS

NATIVE = ("avx512_bf16", "avx512", "avx2", "portable")


def packed(layout: str, rows: int, columns: int, *, integer: bool = True, any_scale: bool = False) -> PackedWeight:
    return PackedWeight((random_matrix(layout, rows, columns, integer=integer, any_scale=any_scale),))


@pytest.mark.parametrize("layout", INTEGER_LAYOUTS)
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(1, 32, 1), (16, 256, 2), (33, 320, 7), (130, 768, 37)])
def test_products_are_those_of_rounded_activations(
    ops: ModuleType, layout: str, rows: int, columns: int, tokens: int
) -> None:
    columns = whole_columns(layout, columns)
    weight = packed(layout, rows, columns)
    x, bias, residual = torch.randn(tokens, columns), torch.randn(rows), torch.randn(tokens, rows)
    rounded = torch.stack([reference.round_activations(row) for row in x])
    stored = weight.parts[0]
    values = torch.from_numpy(dequantize(stored.layout, stored.data, columns))
    expected = (rounded.double() @ values.double().T + bias + residual).float()
    found = ops.matmul(x, weight, bias=bias, residual=residual.clone())
    size = rounded.double().abs() @ values.double().abs().T + bias.abs() + residual.abs()
    assert ((found - expected).abs() <= 4e-7 * size).all()
    assert (x - rounded).abs().max() <= x.abs().max() / 254 * 1.001


@pytest.mark.parametrize("layout", INTEGER_LAYOUTS)
def test_packing_loses_no_bit_of_a_weight(path: str, layout: str) -> None:
    if path == "torch":
        pytest.skip("nothing is packed")
    columns = whole_columns(layout, 64)
    weight = packed(layout, 40, columns, any_scale=True)
    stored = weight.parts[0]
    values = dequantize(stored.layout, stored.data, columns).astype(np.float64)
    # One activation of 127 is the integer 127 with a scale of 1: the product is 127 weights, rounded at most twice.
    found = kernels.matmul(127.0 * torch.eye(columns), weight).numpy().T.astype(np.float64)
    parts = np.abs(values).reshape(40, -1, 32).max(axis=2).repeat(32, axis=1)
    assert (np.abs(found - 127 * values) <= 127 * parts * 2.0**-22 + 1e-37).all()
    if layout in ("Q4_0", "Q5_0", "Q8_0"):
        np.testing.assert_array_equal(found, (127 * values).astype(np.float32))


# Exact products of nibbles are made in integers too; those of bytes are fused in float32, but on the portable path.
@pytest.mark.parametrize(
    ("layout", "integer"),
    [*((layout, True) for layout in INTEGER_LAYOUTS), *((layout, False) for layout in ("Q4_0", "Q4_1", "Q4_K"))],
)
def test_every_native_path_gives_the_same_bits(layout: str, integer: bool) -> None:
    columns = whole_columns(layout, 544)
    x = torch.randn(37, columns) * torch.logspace(-12, 6, columns)
    weight = packed(layout, 70, columns, integer=integer)
    found = {}
    for most in NATIVE:
        if kernels.configure(threads=2, most=most) == most:
            found[most] = [kernels.matmul(rows, weight) for rows in (x, x[:1], x[:2], x[3:8], x[16:29])]
    kernels.configure(threads=1)
    if len(found) < 2:
        pytest.skip("this machine has one native path only")
    first, *others = found.values()
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("integer", [True, False])
def test_a_token_that_is_not_finite_fails_alone(ops: ModuleType, value: float, integer: bool) -> None:
    weight = packed("Q4_1", 20, 96, integer=integer)
    x = torch.randn(5, 96)
    clean = ops.matmul(x, weight)
    x[2, 40] = value
    found = ops.matmul(x, weight)
    assert found[2].isnan().all() if integer else not found[2].isfinite().any()
    assert torch.equal(found[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


@pytest.mark.parametrize("layout", ["Q4_0", "Q4_1", "Q8_0", "Q6_K"])
def test_tiny_activations_are_zeros_and_large_ones_numbers(ops: ModuleType, layout: str) -> None:
    columns = whole_columns(layout, 64)
    weight = packed(layout, 17, columns)
    for tiny in (0.0, 1e-45, 1e-38, 2.0**-101):
        assert torch.equal(ops.matmul(torch.full((3, columns), tiny), weight), torch.zeros(3, 17))
    for scale in (2.0**-100, 1e30):
        x = torch.randn(3, columns)
        expected = ops.matmul(x, weight)
        torch.testing.assert_close(ops.matmul(x * scale, weight) / scale, expected, rtol=1e-4, atol=1e-5)


def test_no_tokens_give_no_outputs(ops: ModuleType) -> None:
    assert ops.matmul(torch.empty(0, 64), packed("Q8_0", 20, 64)).shape == (0, 20)


def test_layouts_without_groups_of_32_stay_exact(ops: ModuleType) -> None:
    x = torch.randn(3, 256)
    for layout in ("F16", "Q2_K", "Q3_K"):
        exact = PackedWeight((random_matrix(layout, 18, 256),))
        assert torch.equal(ops.matmul(x, packed(layout, 18, 256)), ops.matmul(x, exact))


def test_rows_may_be_strided(ops: ModuleType) -> None:
    weight, x = packed("Q8_0", 18, 64), torch.randn(5, 100)
    assert torch.equal(ops.matmul(x[:, :64], weight), ops.matmul(x[:, :64].clone(), weight))


def test_the_most_that_integers_can_reach_does_not_overflow(ops: ModuleType) -> None:
    for layout in ("Q4_1", "Q5_1", "Q8_0"):
        size = {"Q4_1": 20, "Q5_1": 24, "Q8_0": 34}[layout]
        data = np.full((16, 2 * size), 255 if layout != "Q8_0" else 128, np.uint8)  # 15, 31, -128
        blocks = data.reshape(-1, size)
        blocks[:, :2] = np.array([1.0], np.float16).view(np.uint8)
        if layout != "Q8_0":
            blocks[:, 2:4] = 0
        weight = PackedWeight((kernels.Matrix(layout, 16, 64, data.reshape(-1), integer=True),))
        most = {"Q4_1": 15, "Q5_1": 31, "Q8_0": -128}[layout]
        for sign in (1.0, -1.0):
            found = ops.matmul(torch.full((3, 64), 127.0 * sign), weight)
            assert (found == sign * most * 127 * 64).all(), layout
