"""Sizes of rows are those of the `gguf` package."""

from __future__ import annotations

import gguf
import pytest

from tgi.checkpoint.layouts import BLOCKS, row_bytes


@pytest.mark.parametrize("layout", BLOCKS)
def test_row_size_agrees_with_the_gguf_package(layout: str) -> None:
    assert BLOCKS[layout] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[layout]]
    assert row_bytes(layout, 512) == 512 // BLOCKS[layout][0] * BLOCKS[layout][1]


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"33 columns are not a multiple of 32"):
        row_bytes("Q4_0", 33)
    with pytest.raises(ValueError, match=r"layout `Q9_9` is unknown"):
        row_bytes("Q9_9", 32)
