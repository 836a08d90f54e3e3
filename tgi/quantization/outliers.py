"""Which columns of a linear map `--quantize int8` multiplies in float32.

Activations are rounded in groups of 32 columns with one step each, which the largest value decides. In the residual
stream a few channels are always so large that the others of their group are rounded coarsely: four groups of
eighteen can make nine tenths of a matmul's error. So a few tokens are computed once, before a model serves, and the
columns that cost most are singled out (`tgi.kernels.single_out`). Source: Dettmers et al., "LLM.int8()", 2022.

The choice depends on the weights alone, so an engine that is started again makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tgi import kernels
from tgi.kernels import Array, PackedWeight
from tgi.kernels.backend import Backend
from tgi.kernels.dispatch import DISPATCH

GROUP = 32
MOST = 16
"""Columns of one map at most; each is another product in float32 a row, where a group of 32 costs eleven."""

WORTH = 0.008
"""Share of a map's error that a column must cost."""

NUM_TOKENS = 32
"""Tokens that are computed to find them."""


def tokens(vocab_size: int, count: int = NUM_TOKENS) -> npt.NDArray[np.int32]:
    """`count` ids from all over the vocabulary, always the same. Outliers are there whatever the text says."""
    return (np.arange(1, count + 1, dtype=np.int64) * 2_654_435_761 % vocab_size).astype(np.int32)


def choose(x: Array) -> list[int]:
    """The columns, ascending, that cost most where activations `x` [T, K] are rounded in groups.

    A group's error grows with the square of its largest value, so a column costs what that square would fall by.
    """
    count = len(x)
    sizes = np.zeros((-(-x.shape[1] // GROUP) * GROUP, count), np.float32)
    sizes[: x.shape[1]] = np.abs(x.T)
    groups = sizes.reshape(-1, GROUP, count)
    costs = np.stack([_costs(group) for group in groups]).reshape(-1)
    total = float(np.square(groups.max(axis=1), dtype=np.float64).sum())
    found: list[int] = []
    while len(found) < MOST:
        column = int(costs.argmax())
        if not costs[column] > WORTH * total:  # NaN as well
            break
        found.append(column)
        group = column // GROUP
        groups[group, column % GROUP] = 0.0
        costs[group * GROUP : (group + 1) * GROUP] = _costs(groups[group])
    return sorted(found)


def _costs(group: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """What each column of a group [GROUP, T] costs."""
    second, first = np.square(np.partition(group, GROUP - 2, axis=0)[-2:], dtype=np.float64)
    weighted = np.bincount(group.argmax(axis=0), weights=first - second, minlength=GROUP)
    return weighted.astype(np.float64)


class _Watching:
    """A backend whose matmuls single out their own outliers after they were computed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def matmul(
        self, x: Array, weight: PackedWeight, *, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """See `tgi.kernels.matmul`."""
        out = self._backend.matmul(x, weight, bias=bias, residual=residual)
        if len(x) and any(part.in_integers for part in weight.parts):
            kernels.single_out(weight, choose(x))
        return out


@contextmanager
def watched() -> Iterator[None]:
    """Within, each matmul in integers singles out the columns that would have served it best."""
    backend = DISPATCH.backend
    DISPATCH.backend = cast("Backend", _Watching(backend))
    try:
        yield
    finally:
        DISPATCH.backend = backend
