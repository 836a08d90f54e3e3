"""Where arrays lie, told to a library that trusts it: what it would read wrongly is a ValueError here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tgi.kernels.arrays import Array

FLOAT32, INT32, INT64 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)
# Of no bytes, so that it fits on an array of any size.
_nothing_at = cast("Callable[[Array], ctypes.Array[ctypes.c_char]]", (ctypes.c_char * 0).from_buffer)


def address(name: str, array: Array, dtype: np.dtype[Any] = FLOAT32) -> int:
    """Where a contiguous array lies. Raises: ValueError when it is not contiguous and of this type."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"`{name}` must be a contiguous {dtype} array; given {facts(array)}")
    return where(array)


def rows(name: str, array: Array) -> int:
    """As `address`, of a float32 array whose last dimension alone is contiguous."""
    if array.dtype != FLOAT32 or (array.strides[-1] != 4 and array.shape[-1] > 1 and array.size):
        raise ValueError(f"`{name}` must be float32, its last dimension contiguous; given {facts(array)}")
    return where(array)


def where(array: Array) -> int:
    """Where an array lies. `array.ctypes.data` would take five times as long."""
    flags = array.flags
    if flags.c_contiguous and flags.writeable:
        return ctypes.addressof(_nothing_at(array))
    return cast("int", array.__array_interface__["data"][0])


def step(array: Array, dimension: int) -> int:
    """Items from one element to the next along a dimension of a float32 array."""
    return array.strides[dimension] >> 2


def facts(array: Array) -> str:
    """What an array is, for the text of an error."""
    return f"{array.dtype} {array.shape} with strides of {array.strides} bytes"


def expect(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raises: ValueError when an array has another shape."""
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; given {array.shape}")


def expect_heads(name: str, array: Array) -> None:
    """Raises: ValueError when an array does not have three dimensions."""
    if array.ndim != 3:
        raise ValueError(f"`{name}` must be [tokens, heads, head_dim]; given {array.shape}")
