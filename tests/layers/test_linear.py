"""Linear maps are those of torch."""

from __future__ import annotations

import torch

from tgi.kernels import Matrix, PackedWeight
from tgi.layers.linear import ColumnLinear, RowLinear


def matrix(values: torch.Tensor) -> Matrix:
    return Matrix("F32", *values.shape, values.contiguous().view(torch.uint8).reshape(-1).numpy())


def test_columns_stand_side_by_side() -> None:
    first, second, bias, x = torch.randn(5, 8), torch.randn(3, 8), torch.randn(8), torch.randn(4, 8)

    result = ColumnLinear(PackedWeight((matrix(first), matrix(second))), bias)(x)

    torch.testing.assert_close(result, torch.cat([x @ first.T, x @ second.T], dim=1) + bias)


def test_a_row_map_ends_in_the_residual() -> None:
    weight, bias, x, residual = torch.randn(5, 8), torch.randn(5), torch.randn(4, 8), torch.randn(4, 5)
    expected = residual + x @ weight.T + bias

    result = RowLinear(PackedWeight((matrix(weight),)), bias)(x, residual)

    torch.testing.assert_close(result, expected)
    assert result.data_ptr() == residual.data_ptr()
