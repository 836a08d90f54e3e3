"""Columns that are multiplied in float32 beside groups of 8 bits."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.kernels.matrices import random_matrix, whole_columns
from tgi import kernels
from tgi.checkpoint.blocks import dequantize
from tgi.kernels import PackedWeight, reference
from tgi.kernels.weights import INTEGER_LAYOUTS
from tgi.quantization import int8

NATIVE = ("avx512_bf16", "avx512", "avx2", "portable")


@pytest.mark.parametrize("layout", INTEGER_LAYOUTS)
@pytest.mark.parametrize(("sizes", "columns", "tokens"), [((16,), 256, 1), ((5, 33), 320, 7), ((48, 16, 17), 768, 37)])
def test_they_meet_activations_that_nobody_rounded(
    ops: ModuleType, layout: str, sizes: tuple[int, ...], columns: int, tokens: int
) -> None:
    columns = whole_columns(layout, columns)
    weight = PackedWeight(tuple(random_matrix(layout, rows, columns, integer=True) for rows in sizes))
    outliers = [0, 31, 32, 40, columns - 1]
    x = torch.randn(tokens, columns)
    x[:, outliers] *= 300
    before = ops.matmul(x, weight)
    kernels.single_out(weight, outliers)
    rounded = torch.stack([reference.round_activations(row, outliers) for row in x])
    assert torch.equal(rounded[:, outliers], x[:, outliers])
    values = torch.from_numpy(
        np.concatenate([dequantize(layout, part.data, columns) for part in weight.parts])
    ).double()
    size = rounded.double().abs() @ values.abs().T
    found = ops.matmul(x, weight)
    assert ((found - rounded.double() @ values.T).abs() <= 2e-6 * size).all()
    exact = x.double() @ values.T
    assert (found - exact).abs().mean() < 0.2 * (before - exact).abs().mean()
    kernels.single_out(weight, [])
    assert torch.equal(ops.matmul(x, weight), before)


def test_a_row_may_end_within_a_group(ops: ModuleType) -> None:
    x, outliers = torch.randn(3, 40), [33, 39]
    rounded = reference.round_activations(x[0], outliers)
    assert torch.equal(rounded[outliers], x[0, outliers])
    assert (rounded - x[0]).abs().max() <= x[0].abs().max() / 254 * 1.001
    weight = PackedWeight((random_matrix("F16", 20, 40, integer=True),))  # not in integers: nothing is singled out
    before = ops.matmul(x, weight)
    kernels.single_out(weight, outliers)
    assert torch.equal(ops.matmul(x, weight), before)


def test_a_converted_weight_is_taken_as_it_was(ops: ModuleType) -> None:
    source = random_matrix("F16", 20, 96)
    converted = replace(source, layout="Q8_0", data=int8.quantize("F16", source.data, 96), integer=True, source=source)
    weight, x = PackedWeight((converted,)), torch.zeros(2, 96)
    x[0, 7], x[1, 64] = 3.0, -0.37
    kernels.single_out(weight, [7, 64])
    values = torch.from_numpy(dequantize("F16", source.data, 96))
    assert torch.equal(ops.matmul(x, weight), torch.stack([3.0 * values[:, 7], -0.37 * values[:, 64]]))


@pytest.mark.parametrize("layout", INTEGER_LAYOUTS)
def test_every_native_path_gives_the_same_bits_for_any_number_of_tokens(layout: str) -> None:
    columns = whole_columns(layout, 544)
    x = torch.randn(37, columns) * torch.logspace(-3, 3, columns)
    weight = PackedWeight((random_matrix(layout, 70, columns, integer=True),))
    kernels.single_out(weight, list(range(columns - 16, columns)))
    found = {}
    for most in NATIVE:
        if kernels.configure(threads=2, most=most) == most:
            whole = kernels.matmul(x, weight)
            for rows in (slice(0, 1), slice(0, 2), slice(3, 8), slice(16, 29)):
                assert torch.equal(kernels.matmul(x[rows], weight), whole[rows])
            found[most] = whole
    kernels.configure(threads=1)
    first, *others = found.values()
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_fails_alone(ops: ModuleType, value: float) -> None:
    weight, x = PackedWeight((random_matrix("Q4_1", 20, 96, integer=True),)), torch.randn(5, 96)
    kernels.single_out(weight, [40])
    clean = ops.matmul(x, weight)
    x[2, 40] = value
    found = ops.matmul(x, weight)
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


def test_a_recorded_step_takes_what_was_singled_out_later() -> None:
    weight, x = PackedWeight((random_matrix("Q4_1", 20, 96, integer=True),)), torch.randn(4, 96)
    recorder = kernels.record([x], tokens=4)
    if recorder is None:
        pytest.skip("nothing is recorded on torch")
    with recorder as recording:
        out = kernels.matmul(x, weight)
    kernels.single_out(weight, [3, 90])
    recording.replay(tokens=4)
    assert torch.equal(torch.as_tensor(out), kernels.matmul(x, weight))


@pytest.mark.parametrize("columns", [[-1], [96], [4, 3], [5, 5]])
def test_columns_must_exist_and_ascend(ops: ModuleType, columns: list[int]) -> None:
    weight = PackedWeight((random_matrix("Q4_1", 20, 96, integer=True),))
    with pytest.raises(ValueError, match=r"ascend within \[0, 96\)"):
        ops.single_out(weight, columns)
