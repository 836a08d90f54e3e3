"""All backends offer the same operations."""

from __future__ import annotations

import inspect

import pytest

from tgi import kernels
from tgi.kernels import reference
from tgi.kernels.backend import Backend
from tgi.kernels.cpu import CpuKernels
from tgi.kernels.on_torch import TorchKernels

NOT_OPERATIONS = {"Array", "Matrix", "PackedWeight", "Recording", "configure", "populate", "record", "refreshed"}
OPERATIONS = sorted(set(kernels.__all__) - NOT_OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_one_signature_everywhere(name: str) -> None:
    expected = inspect.signature(getattr(kernels, name))
    assert str(inspect.signature(getattr(reference, name))).replace("Tensor", "Array") == str(expected)
    for backend in (Backend, CpuKernels, TorchKernels):
        found = inspect.signature(getattr(backend, name))
        assert list(found.parameters.values())[1:] == list(expected.parameters.values())


def test_a_backend_offers_nothing_else() -> None:
    assert sorted(name for name in vars(Backend) if not name.startswith("_")) == OPERATIONS
