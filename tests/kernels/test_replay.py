"""A recorded computation gives the same bits when it is replayed on other inputs, and on fewer."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.kernels.matrices import random_matrix
from tgi import kernels
from tgi.kernels import PackedWeight
from tgi.kernels.replay import Memory

ROWS, HEADS, KV_HEADS, SIZE = 3, 4, 2, 16
HIDDEN = HEADS * SIZE


class Layer:
    """One decoder layer, of every operation that can be recorded."""

    def __init__(self) -> None:
        width = (HEADS + 2 * KV_HEADS) * SIZE
        self.table = random_matrix("F16", 50, HIDDEN)
        self.qkv = PackedWeight((random_matrix("Q8_0", width, HIDDEN, integer=True),))
        self.out = PackedWeight((random_matrix("F32", HIDDEN, HIDDEN),))
        self.up = PackedWeight((random_matrix("Q4_0", 2 * HIDDEN, HIDDEN, integer=True),))
        self.down = PackedWeight((random_matrix("BF16", HIDDEN, HIDDEN),))
        self.norm = torch.rand(HIDDEN)
        self.angles = torch.randn(100, SIZE // 2)
        self.starts = torch.arange(ROWS + 1, dtype=torch.int32)
        self.order = torch.zeros(ROWS, dtype=torch.int32)
        self.caches = torch.zeros(2, 8, 4, KV_HEADS, SIZE)

    def __call__(self, ids: Tensor, positions: Tensor, slots: Tensor, lens: Tensor, tables: Tensor) -> Tensor:
        x = kernels.embedding(ids, self.table)
        qkv = kernels.matmul(kernels.rms_norm(x, self.norm, 1e-5), self.qkv).view(len(ids), HEADS + 2 * KV_HEADS, SIZE)
        q, k, v = qkv[:, :HEADS], qkv[:, HEADS : HEADS + KV_HEADS], qkv[:, HEADS + KV_HEADS :]
        cos, sin = kernels.refreshed(lambda: (self.angles[positions].cos(), self.angles[positions].sin()))
        kernels.rotary(q, k, cos, sin, interleaved=False)
        kernels.write_kv(k, v, self.caches[0], self.caches[1], slots)
        starts = self.starts[: len(ids) + 1]
        mixed = kernels.attention(q, self.caches[0], self.caches[1], starts, lens, tables, scale=0.25)
        x = kernels.matmul(mixed, self.out, residual=kernels.take(x, self.order[: len(ids)]))
        inner = kernels.gated(kernels.matmul(kernels.layer_norm(x, self.norm, None, 1e-5), self.up), "silu")
        return kernels.matmul(kernels.activate(inner, "gelu"), self.down, residual=x)


def inputs(seed: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randperm(8, generator=random)[: 2 * ROWS].view(ROWS, 2)
    lens = torch.randint(1, 9, (ROWS,), generator=random)
    slots = blocks[torch.arange(ROWS), (lens - 1) // 4] * 4 + (lens - 1) % 4
    ids = torch.randint(0, 50, (ROWS,), generator=random)
    return ids.int(), (lens - 1).int(), slots, lens.int(), blocks.int()


@pytest.fixture
def layer(ops: ModuleType, path: str) -> Layer:
    if path == "torch":
        pytest.skip("nothing is recorded")
    return Layer()


def test_a_replay_gives_what_the_computation_gives(layer: Layer) -> None:
    given = inputs(0)
    recorder = kernels.record([*given, layer.starts, layer.order], tokens=ROWS)
    assert recorder is not None
    with recorder as recording:
        result = layer(*given)
    assert recording.complete
    assert not layer.caches.any()  # nothing was computed
    for seed, rows in ((0, ROWS), (1, ROWS), (2, 2), (3, 1), (4, 0), (5, ROWS)):
        for target, value in zip(given, inputs(seed), strict=True):
            target.copy_(value)
        layer.caches.zero_()
        expected, written = layer(*(value[:rows] for value in given)).clone(), layer.caches.clone()
        layer.caches.zero_()
        recording.replay(tokens=rows)
        assert torch.equal(result[:rows], expected)
        assert torch.equal(layer.caches, written)


def test_numbers_are_known_by_their_size(layer: Layer) -> None:
    x, order = torch.randn(4, HIDDEN), torch.tensor([3, 1, 0], dtype=torch.int32)
    recorder = kernels.record([x, order], tokens=4, wanted=3)
    assert recorder is not None
    with recorder as recording:
        result = kernels.matmul(kernels.take(kernels.activate(x, "relu"), order), layer.out)
    assert recording.complete
    order[:2] = torch.tensor([1, 2], dtype=torch.int32)
    x[3] = float("nan")  # is not looked at
    recording.replay(tokens=3, wanted=2)
    assert torch.equal(result[:2], kernels.matmul(x[[1, 2]].relu(), layer.out))


def test_a_number_that_nobody_named_makes_a_recording_incomplete(layer: Layer) -> None:
    x = torch.randn(3, HIDDEN)
    recorder = kernels.record([x], tokens=4)
    assert recorder is not None
    with recorder as recording:
        kernels.matmul(x, layer.out)
    assert not recording.complete


def test_a_replay_refuses_what_does_not_exist(layer: Layer) -> None:
    given = inputs(0)
    recorder = kernels.record([*given, layer.starts, layer.order])
    assert recorder is not None
    with recorder as recording:
        layer(*given)
    for index, value in ((0, 50), (2, 99), (4, -1)):
        kept = given[index].clone()
        given[index].fill_(value)
        with pytest.raises(ValueError, match="does not exist"):
            recording.replay()
        given[index].copy_(kept)
    recording.replay()


def test_values_computed_beside_the_kernels_make_a_recording_incomplete(layer: Layer) -> None:
    x = torch.randn(2, HIDDEN)
    recorder = kernels.record([x])
    assert recorder is not None
    with recorder as recording:
        kernels.matmul(x + 1.0, layer.out)
    assert not recording.complete


def test_calls_are_kept_inside_only(layer: Layer) -> None:
    x = torch.randn(2, HIDDEN)
    recorder = kernels.record([x])
    assert recorder is not None
    with recorder as recording:
        kernels.matmul(x, layer.out)
        with pytest.raises(ValueError, match="columns"):
            kernels.matmul(x[:, 1:], layer.out)
    count = len(recording.words)
    kernels.matmul(x, layer.out)
    assert len(recording.words) == count > 0


def test_nothing_is_recorded_where_torch_computes() -> None:
    kernels.configure(native=False)
    assert kernels.record([]) is None
    assert kernels.refreshed(lambda: (torch.ones(1),))[0].item() == 1.0
    kernels.configure(threads=1)


def test_memory_is_lent_again_when_the_last_view_is_gone() -> None:
    memory = Memory()
    first = memory.empty((4, 8))
    address, view = first.ctypes.data, first[1:]
    del first
    assert memory.empty((4, 8)).ctypes.data != address
    del view
    assert address in {array.ctypes.data for array in [memory.empty((4, 8)) for _ in range(2)]}


def test_memory_that_forgets_holds_one_buffer_for_a_result_that_grows() -> None:
    memory = Memory(forgets=True)
    for rows in range(100, 200):
        memory.empty((rows, 64))
        assert memory.empty((rows, 64)).shape == (rows, 64)
    assert memory.held_bytes <= 2 * 200 * 64 * 4


@pytest.mark.parametrize("view", [
    lambda array: array[3],
    lambda array: array.reshape(64, 8, 8)[3, 2:].reshape(-1)[:10],
    lambda array: array.view(np.uint32).T[:, 3].view(np.float32),
    lambda array: memoryview(array)[3:4],
    lambda array: torch.from_numpy(array)[3],
])  # fmt: skip
def test_memory_that_is_in_use_is_never_lent_twice(view: Callable[[npt.NDArray[np.float32]], Any]) -> None:
    memory = Memory(forgets=True)
    first = memory.empty((64, 64))
    first.fill(1.0)
    left = view(first)
    del first
    memory.empty((64, 64)).fill(2.0)
    memory.empty((100, 64)).fill(3.0)
    assert set(np.asarray(left).reshape(-1).tolist()) == {1.0}
    held = memory.held_bytes
    del left
    assert memory.held_bytes == held + 64 * 64 * 4
