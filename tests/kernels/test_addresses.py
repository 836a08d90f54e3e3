"""Addresses and steps are those that numpy tells, of arrays of every kind that operations get."""

from __future__ import annotations

import numpy as np
import pytest

from tgi.kernels.addresses import INT32, address, expect, expect_heads, rows, step, where
from tgi.kernels.arrays import Array

WHOLE = np.zeros((4, 6, 8), np.float32)
FIXED = WHOLE.copy()
FIXED.flags.writeable = False


@pytest.mark.parametrize("array", [WHOLE, WHOLE[1:], WHOLE[:, 2:, 3:], WHOLE[:0], WHOLE[:, :, :0], FIXED, FIXED[:, 1]])
def test_an_array_is_found_where_numpy_says(array: Array) -> None:
    assert where(array) == rows("x", array) == array.ctypes.data
    assert [step(array, dimension) * 4 for dimension in range(array.ndim)] == list(array.strides)


def test_one_column_or_no_row_has_no_stride_to_be_wrong() -> None:
    for array in (WHOLE[:, :, :1], np.lib.stride_tricks.as_strided(WHOLE[:0], (0, 8), (0, 0))):
        assert rows("x", array) == array.ctypes.data


@pytest.mark.parametrize("array", [WHOLE.astype(np.float64), WHOLE[..., ::2], WHOLE.transpose(0, 2, 1)])
def test_rows_that_the_library_would_read_wrongly_are_refused(array: Array) -> None:
    with pytest.raises(ValueError, match=r"`x` must be .* with strides of"):
        rows("x", array)
    with pytest.raises(ValueError, match="contiguous"):
        address("x", array)


def test_a_type_or_shape_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous int32"):
        address("ids", np.zeros(3, np.int64), INT32)
    with pytest.raises(ValueError, match=r"shape \(3,\); given \(2,\)"):
        expect("bias", np.zeros(2), (3,))
    with pytest.raises(ValueError, match="heads, head_dim"):
        expect_heads("q", WHOLE[0])
