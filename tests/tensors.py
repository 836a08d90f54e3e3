"""Lets tests give torch tensors to kernels, and take them: a reference is written with those most plainly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tgi import kernels

OPERATIONS = ("activate", "attention", "embedding", "gated", "greedy", "layer_norm", "matmul", "record", "refreshed",
              "rms_norm", "rotary", "take", "write_kv")  # fmt: skip


def array(value: Any) -> Any:
    """A tensor as an array over the same memory, brain floats as uint16; other things as they are."""
    if isinstance(value, Tensor):
        return value.view(torch.int16).numpy().view(np.uint16) if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, tuple | list):
        return type(value)(map(array, value))
    return (lambda: array(value())) if callable(value) else value


def tensor(value: Any) -> Any:
    """The other way round; arrays in tuples too."""
    if isinstance(value, tuple):
        return tuple(map(tensor, value))
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def on_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays as one of tensors, in place where it was in place."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return tensor(function(*map(array, arguments), **{name: array(value) for name, value in named.items()}))

    return call


class OnTensors:
    """An object whose methods take and give tensors."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return on_tensors(getattr(self._inner, name))


@pytest.fixture(autouse=True)
def kernels_take_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """While this fixture is there, layers compute with tensors too: they know no more of an array than both have."""
    for name in OPERATIONS:
        monkeypatch.setattr(kernels, name, on_tensors(getattr(kernels, name)))
