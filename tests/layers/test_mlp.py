"""Feed-forward blocks are their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.layers.test_linear import matrix
from tgi.kernels import PackedWeight
from tgi.layers.linear import ColumnLinear, RowLinear
from tgi.layers.mlp import MLP, GatedMLP

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_gate_multiplies_what_it_lets_through(name: str) -> None:
    gate, up, down = torch.randn(12, 8), torch.randn(12, 8), torch.randn(8, 12)
    x, residual = torch.randn(3, 8), torch.randn(3, 8)
    expected = residual + (ACTIVATIONS[name](x @ gate.T) * (x @ up.T)) @ down.T

    gate_up = ColumnLinear(PackedWeight((matrix(gate), matrix(up))))
    result = GatedMLP(gate_up, RowLinear(PackedWeight((matrix(down),))), name)(x, residual)

    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_plain_block_goes_up_and_down(name: str) -> None:
    up, down, bias = torch.randn(12, 8), torch.randn(8, 12), torch.randn(12)
    x, residual = torch.randn(3, 8), torch.randn(3, 8)
    expected = residual + ACTIVATIONS[name](x @ up.T + bias) @ down.T

    block = MLP(ColumnLinear(PackedWeight((matrix(up),)), bias), RowLinear(PackedWeight((matrix(down),))), name)

    torch.testing.assert_close(block(x, residual), expected, rtol=1e-5, atol=1e-5)
