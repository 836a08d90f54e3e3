"""All backends offer the same operations."""

from __future__ import annotations

import inspect

import pytest

from tgi import kernels
from tgi.kernels import reference
from tgi.kernels.backend import Backend
from tgi.kernels.cpu import CpuKernels

OPERATIONS = sorted(set(kernels.__all__) - {"Matrix", "PackedWeight", "Recording", "configure", "record", "refreshed"})


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_one_signature_everywhere(name: str) -> None:
    expected = inspect.signature(getattr(kernels, name))
    assert inspect.signature(getattr(reference, name)) == expected
    for backend in (Backend, CpuKernels):
        found = inspect.signature(getattr(backend, name))
        assert list(found.parameters.values())[1:] == list(expected.parameters.values())


def test_a_backend_offers_nothing_else() -> None:
    assert sorted(name for name in vars(Backend) if not name.startswith("_")) == OPERATIONS
