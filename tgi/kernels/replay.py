"""Record the kernel calls of a step once, then make them all in one call of the library.

A decode step is hundreds of small calls, and Python needs as long for them as the processor for the work. `record`
runs a computation as usual, and keeps every call with its arguments: addresses, sizes, strides. Whoever recorded it
puts new values into the same input tensors and calls `Recording.replay`, which does what the computation would do, into
the same result. The calls are the same, so are the bits.

Memory is reused between the operations of a recording as it was when it was recorded, and between recordings: a result
that is not kept by the caller until after the next replay of any recording is lost.
"""

from __future__ import annotations

import contextlib
import math
import struct
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

REPLAYED = ("matmul", "embedding", "norm", "rotary", "write_kv", "attention", "activate")
"""Functions of the library that can be recorded, in the order of the switch in `native/api.cpp`."""

# What torch may do while a computation is recorded without leaving values that a replay would not renew.
_HARMLESS = ("aten::empty", "aten::detach", "aten::lift_fresh", "aten::alias", "aten::_unsafe_view")


@dataclass(slots=True)
class Recording:
    """Calls to make again, and what they read and write."""

    complete: bool = True  # every value of the computation came out of a recorded call
    refreshes: list[tuple[Callable[[], tuple[Tensor, ...]], tuple[Tensor, ...]]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)  # function, number of arguments, arguments; and so on
    run: Callable[[int, int], int] | None = None
    program: npt.NDArray[np.int64] | None = None

    def replay(self) -> None:
        """Make the calls, on what the input tensors hold now.

        Raises: ValueError when the inputs name a token, a slot or a block that does not exist.
        """
        for compute, kept in self.refreshes:
            for target, value in zip(kept, compute(), strict=True):
                target.copy_(value)
        if self.program is None:
            self.program = np.array(self.words, dtype=np.int64)
        assert self.run is not None
        if self.run(self.program.ctypes.data, len(self.program)):
            raise ValueError("the step names a token, a slot or a block that does not exist")


class Memory:
    """Buffers that recordings share. One is free again when the last tensor on it is gone."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor on the smallest buffer that is free and large enough."""
        size = 4 * math.prod(shape)
        fitting = [index for index, buffer in enumerate(self._free) if size <= len(buffer) <= 2 * size + 4096]
        if fitting:
            buffer = self._free.pop(min(fitting, key=lambda index: len(self._free[index])))
        else:
            buffer = np.empty(size, dtype=np.uint8)
        # torch keeps this view until no tensor needs its memory any more.
        view = buffer[:size]
        weakref.finalize(view, self._free.append, buffer)
        return torch.from_numpy(view).view(torch.float32).view(shape)


class Recorder:
    """What the bindings call through while a computation is recorded."""

    def __init__(self, memory: Memory, signatures: dict[str, str]) -> None:
        self.recording = Recording()
        self._memory = memory
        self._signatures = signatures

    def empty(self, *shape: int) -> Tensor:
        """As `torch.empty`, of memory that recordings share."""
        return self._memory.empty(shape)

    def wrap(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        """`function`, whose calls are kept."""
        number, signature = REPLAYED.index(name), self._signatures[name]

        def call(*arguments: Any) -> int:
            words = self.recording.words
            words += [number, len(arguments)]
            words += [_word(kind, value) for kind, value in zip(signature, arguments, strict=True)]
            return function(*arguments)

        return call

    def refreshed(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `compute` returns, in tensors that every replay fills again."""
        with torch.utils._python_dispatch._disable_current_modes():
            kept = tuple(value.contiguous().clone() for value in compute())
        self.recording.refreshes.append((compute, kept))
        return kept

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Find values that torch computes in between: a replay would not renew them, so the recording is incomplete."""
        with _Watch(self.recording):
            yield


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.name().split(".")[0] not in _HARMLESS:
            self._recording.complete = False
        return func(*args, **(kwargs or {}))


def _word(kind: str, value: Any) -> int:
    """An argument as 64 bits, as `native/api.cpp` takes it apart."""
    if kind == "f":
        bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
        return bits
    return 0 if value is None else int(value)
