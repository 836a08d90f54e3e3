"""The choice of a backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.kernels.matrices import random_matrix
from tgi import kernels
from tgi.kernels import PackedWeight, dispatch
from tgi.kernels.on_torch import TorchKernels


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    """Leave the kernels as a fresh process has them."""
    yield
    kernels.configure(threads=1)


def test_torch_computes_when_asked() -> None:
    assert kernels.configure(native=False) == "torch"
    assert isinstance(dispatch.DISPATCH.backend, TorchKernels)
    assert torch.get_num_threads() == 1


def test_torch_computes_where_the_library_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.DISPATCH, "native", None)
    assert kernels.configure() == "torch"


def test_a_machine_without_the_library_still_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_library", lambda: None)
    made = dispatch._dispatch()
    assert isinstance(made.backend, TorchKernels)
    assert made.native is None


def test_the_native_path_is_named() -> None:
    if dispatch.DISPATCH.native is None:
        pytest.skip("the native library was not built")
    assert kernels.configure() in ("avx512_bf16", "avx512", "avx2", "portable")
    assert kernels.configure(most="portable") == "portable"


def test_threads_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="threads"):
        kernels.configure(threads=0)


def test_no_more_cores_are_used_than_the_process_may() -> None:
    assert 1 <= dispatch.usable_cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert dispatch.usable_cores() == 1
        finally:
            os.sched_setaffinity(0, allowed)


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    kernels.configure(threads=2)
    weight = PackedWeight((random_matrix("Q4_1", 600, 768),))
    inputs = [torch.randn(tokens, 768) for tokens in (1, 5, 20, 64) * 6]
    expected = [kernels.matmul(x, weight) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: kernels.matmul(x, weight), inputs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
