"""Runs a kernel test on every path this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.tensors import OnTensors, kernels_take_tensors
from tgi import kernels
from tgi.kernels.cpu import CpuKernels, find_library
from tgi.kernels.dispatch import DISPATCH

__all__ = ["kernels_take_tensors"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make sanitize` tries a library built another way."""
    parser.addoption("--library", type=Path, help="native library to test instead of the installed one")


def pytest_configure(config: pytest.Config) -> None:
    """Load that library before any test runs."""
    library = config.getoption("--library", default=None)
    if library is not None:
        DISPATCH.native = CpuKernels(library.resolve())
        DISPATCH.backend = DISPATCH.native


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws its own numbers, the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(params=["avx512_bf16", "avx512", "avx2", "portable", "torch"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels configured to one path, on two threads."""
    wanted: str = request.param
    found = kernels.configure(threads=2, native=wanted != "torch", most=None if wanted == "torch" else wanted)
    if found != wanted:
        pytest.skip(f"`{wanted}` does not run here")
    yield wanted
    kernels.configure(threads=1)


@pytest.fixture
def ops(path: str) -> ModuleType:
    """`tgi.kernels` on that path."""
    return kernels


@pytest.fixture(scope="module")
def native() -> OnTensors:
    """The native backend alone."""
    library = find_library()
    if library is None:
        pytest.skip("the native library was not built")
    return OnTensors(CpuKernels(library))
