"""Norms are those of torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tgi.layers.norm import LayerNorm, RMSNorm


def test_rms_norm_is_that_of_torch() -> None:
    x, weight = torch.randn(5, 24), torch.randn(24)

    torch.testing.assert_close(RMSNorm(weight, 1e-3)(x), F.rms_norm(x, (24,), weight, 1e-3))


def test_rms_norm_takes_heads_out_of_a_wider_row() -> None:
    x, weight = torch.randn(5, 7, 16)[:, 2:5], torch.randn(16)

    torch.testing.assert_close(RMSNorm(weight, 1e-6)(x), F.rms_norm(x, (16,), weight, 1e-6))


def test_layer_norm_is_that_of_torch() -> None:
    x, weight, bias = torch.randn(5, 24) + 3, torch.randn(24), torch.randn(24)

    torch.testing.assert_close(LayerNorm(weight, bias, 1e-3)(x), F.layer_norm(x, (24,), weight, bias, 1e-3))
