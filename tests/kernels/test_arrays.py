"""Floats are stored as torch stores them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tgi.checkpoint.blocks import dequantize
from tgi.kernels.arrays import STORED, encode

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("layout", STORED)
def test_values_are_rounded_to_the_nearest_and_ties_to_even(layout: str) -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 400_000, dtype=np.uint32)
    bits[:8] = (0x3F80_8000, 0x3F81_8000, 0x7F7F_FFFF, 0x0000_0001, 0x8000_0000, 0x7F80_0000, 0x33800000, 0x477F_F000)
    values = bits.view(np.float32).reshape(-1, 10)
    stored = encode(values, layout)
    assert (stored.dtype, stored.shape) == (STORED[layout], values.shape)
    found = dequantize(layout, stored.view(np.uint8).reshape(-1), 10)
    np.testing.assert_array_equal(found, torch.from_numpy(values).to(TYPES[layout]).float())


def test_arrays_of_any_strides_are_stored() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(encode(values.T, "BF16"), encode(values, "BF16").T)
