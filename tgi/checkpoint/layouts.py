"""Storage layouts of weights: how many bytes a row takes. What the bytes mean is `blocks.py`'s."""

from __future__ import annotations

BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Layout -> (values per block, bytes per block)."""


def row_bytes(layout: str, columns: int) -> int:
    """Bytes one row of `columns` values takes.

    Raises: ValueError for an unknown layout, or when a row is not a whole number of blocks.
    """
    if layout not in BLOCKS:
        raise ValueError(f"layout `{layout}` is unknown; known: {', '.join(BLOCKS)}")
    values, size = BLOCKS[layout]
    if columns % values:
        raise ValueError(f"{columns} columns are not a multiple of {values}, the block length of {layout}")
    return columns // values * size
