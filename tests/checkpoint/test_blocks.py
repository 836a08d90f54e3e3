"""Dequantisation is bit-equal to the `gguf` package's, and to literal vectors."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from tgi.checkpoint.blocks import dequantize
from tgi.checkpoint.layouts import BLOCKS

# spec/quantization.md section 8: the block x[i] = (i - 15.5) / 8, i < 32, as ggml quantises it.
VECTORS = {
    "Q4_0": "c033809191a2a2b3b3c4c4d5d5e6e6f7f7f8",
    "Q4_1": "2234c0bf80809191a2a2b3b3c4c4d5d5e6e6f7f7",
    "Q5_0": "c02f0000ffff102132435465768798a9bacbdcedfeff",
    "Q5_1": "0030c0bf0000ffff00112233445566778899aabbccddeeff",
    "Q8_0": "d0238189919aa2aab2bac3cbd3dbe3ecf4fc040c141d252d353d464e565e666f777f",
}
HALF_SCALES = {  # where the half-precision numbers of a block lie
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def random_rows(layout: str, rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random bytes whose scales are finite halves of all magnitudes, subnormals among them."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // BLOCKS[layout][0], BLOCKS[layout][1]), dtype=np.uint8)
    for offset in HALF_SCALES.get(layout, []):
        halves = rng.integers(0, 0x7C00, len(blocks), dtype=np.uint16) | (rng.integers(0, 2, len(blocks)) << 15)
        blocks[:, offset : offset + 2] = halves.astype("<u2")[:, None].view(np.uint8)
    if layout in ("F32", "F16", "BF16"):
        values = rng.standard_normal(rows * columns).astype(np.float32)
        raw = {"F32": values, "F16": values.astype(np.float16), "BF16": (values.view(np.uint32) >> 16).astype("<u2")}
        return raw[layout].view(np.uint8).reshape(-1)
    return blocks.reshape(-1)


@pytest.mark.parametrize("layout", BLOCKS)
def test_dequantised_rows_are_bit_equal_to_the_gguf_package(layout: str) -> None:
    rows, columns = 37, 1024
    data = random_rows(layout, rows, columns)
    expected = gguf.quants.dequantize(data.reshape(rows, -1), gguf.GGMLQuantizationType[layout])
    actual = dequantize(layout, data, columns)
    assert actual.shape == (rows, columns)
    np.testing.assert_array_equal(actual.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


@pytest.mark.parametrize("layout", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_gguf_quantises_comes_back_bit_equal(layout: str) -> None:
    kind = gguf.GGMLQuantizationType[layout]
    stored = gguf.quants.quantize(np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32), kind)
    actual = dequantize(layout, stored.reshape(-1), 64)
    np.testing.assert_array_equal(actual.view(np.uint32), gguf.quants.dequantize(stored, kind).view(np.uint32))


@pytest.mark.parametrize("layout", VECTORS)
def test_literal_block_of_the_specification_is_read_back_within_half_a_step(layout: str) -> None:
    ramp = (np.arange(32, dtype=np.float32) - 15.5) / 8
    values = dequantize(layout, np.frombuffer(bytes.fromhex(VECTORS[layout]), dtype=np.uint8), 32)[0]
    steps = {"Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q8_0": 127}[layout]
    span = 1.9375 if layout in ("Q4_0", "Q5_0", "Q8_0") else 3.875
    # Q4_0 and Q5_0 clip the largest value of the sign that did not set the scale: a whole step, else half of one.
    np.testing.assert_allclose(values, ramp, atol=span / steps * 1.01 * (1 if layout in ("Q4_0", "Q5_0") else 0.5))


def test_a_tensor_larger_than_one_chunk_is_read_whole() -> None:
    data = random_rows("Q8_0", 600, 1024)
    expected = gguf.quants.dequantize(data.reshape(600, -1), gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(dequantize("Q8_0", data, 1024), expected)


def test_bytes_that_are_not_whole_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not whole rows"):
        dequantize("Q4_0", np.zeros(17, dtype=np.uint8), 32)
