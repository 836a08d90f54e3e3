"""Record the kernel calls of a step once, then make them all in one call of the library.

A step is hundreds of small calls, and Python needs as long for them as the processor for the work of a small one. While
`record` is in force a computation runs as usual, but its calls are kept instead of made, with their arguments:
addresses, sizes, strides. Whoever recorded it puts values into the same input arrays and calls `Recording.replay`,
which does what the computation would do, into the same result. The calls are the same, so are the bits.

A recording serves steps of many sizes: made for the most tokens, requests and so on, it is replayed with fewer. Their
numbers are the arguments of the letter "n"; what lies behind them in arrays is left as it is.

Memory is reused between the operations of a recording as it was when it was recorded, and between recordings: a result
that is not kept by the caller until after the next replay of any recording is lost.
"""

from __future__ import annotations

import math
import struct
import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tgi.kernels.arrays import Array

REPLAYED = ("matmul", "embedding", "norm", "rotary", "write_kv", "attention", "activate", "greedy", "take")
"""Functions of the library that can be recorded, in the order of the switch in `native/api.cpp`."""


@dataclass(slots=True)
class Recording:
    """Calls to make again, and what they read and write."""

    complete: bool = True  # every value came out of a recorded call, and every number of things is a known one
    refreshes: list[tuple[Callable[[], tuple[Array, ...]], tuple[Array, ...]]] = field(default_factory=list)
    words: array[int] = field(default_factory=lambda: array("q"))  # function, number of arguments, arguments; and so on
    counts: dict[str, array[int]] = field(default_factory=dict)  # where among the words a number of things stands
    run: Callable[[int, int], int] | None = None

    def replay(self, **sizes: int) -> None:
        """Make the calls, on what the input arrays hold now. `sizes`: how many of what was recorded; none: all.

        Raises: ValueError when the inputs name a token, a slot or a block that does not exist.
        """
        for compute, kept in self.refreshes:
            for target, value in zip(kept, compute(), strict=True):
                np.copyto(target, value)
        assert self.run is not None
        for name, size in sizes.items():
            places = self.counts[name]
            if places and self.words[places[0]] != size:
                np.frombuffer(self.words, np.int64)[np.frombuffer(places, np.int64)] = size
        if self.run(*self.words.buffer_info()):
            raise ValueError("the step names a token, a slot or a block that does not exist")


class Memory:
    """Buffers that recordings share. One is free again when the last view of it is gone."""

    def __init__(self, *, forgets: bool = False) -> None:
        """`forgets`: a free buffer makes room for a somewhat larger one. No recording may write into such memory."""
        self._forgets = forgets
        self._free: list[memoryview] = []

    def empty(self, shape: tuple[int, ...]) -> Array:
        """A float32 array on the smallest buffer that is free and large enough."""
        size = 4 * math.prod(shape)
        fitting = [index for index, buffer in enumerate(self._free) if size <= len(buffer) <= 4 * size + 4096]
        if fitting:
            buffer = self._free.pop(min(fitting, key=lambda index: len(self._free[index])))
        else:
            if self._forgets:
                self._free = [buffer for buffer in self._free if not size < 2 * len(buffer) < 2 * size]
            # A power of two, so that what steps of other sizes need fits too; memory that nobody touches is not taken.
            buffer = np.empty(1 << (size - 1).bit_length() if size else 0, dtype=np.uint8).data
        # Every view keeps this array: numpy would pass on to what is below it, were that an array too.
        lent: npt.NDArray[np.float32] = np.frombuffer(buffer, np.float32, size // 4)
        weakref.finalize(lent, self._give_back, buffer)
        return lent.reshape(shape)

    @property
    def held_bytes(self) -> int:
        """Size of all buffers that are free."""
        return sum(len(buffer) for buffer in self._free)

    def _give_back(self, buffer: memoryview) -> None:
        self._free.append(buffer)


class Recorder:
    """What the bindings call through while a computation is recorded.

    A value that numpy computes between two calls makes the recording incomplete. What numpy writes into a result in
    place cannot be seen, and models do not do that.
    """

    def __init__(
        self, memory: Memory, signatures: dict[str, str], inputs: Iterable[Array], sizes: Mapping[str, int]
    ) -> None:
        """`signatures`: a letter an argument; "v" is the address of a value that belongs to one step, "n" a number.

        `sizes`: the numbers that a replay may change, no two of them equal.
        """
        self.recording = Recording(counts={name: array("q") for name in sizes})
        self._names = {size: name for name, size in sizes.items()}
        self._known: list[tuple[int, int]] = []  # where values lie that a replay renews
        for given in inputs:
            self._know(given)
        self._memory = memory
        self._signatures = signatures

    def empty(self, *shape: int) -> Array:
        """As `numpy.empty`, of memory that recordings share."""
        made = self._memory.empty(shape)
        self._know(made)
        return made

    def wrap(self, name: str) -> Callable[..., int]:
        """A function whose calls are kept."""
        number, signature = REPLAYED.index(name), self._signatures[name]
        values = [index for index, kind in enumerate(signature) if kind == "v"]
        numbers = [index for index, kind in enumerate(signature) if kind == "n"]

        def call(*arguments: Any) -> int:
            for index in values:
                self._check(arguments[index])
            words = self.recording.words
            words.extend((number, len(arguments)))
            for index in numbers:
                self._count(arguments[index], len(words) + index)
            words.extend(_word(kind, value) for kind, value in zip(signature, arguments, strict=True))
            return 0

        return call

    def _count(self, size: int, place: int) -> None:
        """Remember where a size stands; a number of nothing stays one."""
        if size in self._names:
            self.recording.counts[self._names[size]].append(place)
        elif size and self._names:
            self.recording.complete = False

    def refreshed(self, compute: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
        """What `compute` returns, in arrays that every replay fills again."""
        kept = tuple(value.copy() for value in compute())
        for value in kept:
            self._know(value)
        self.recording.refreshes.append((compute, kept))
        return kept

    def _know(self, value: Array) -> None:
        start = value.ctypes.data
        self._known.append((start, start + value.nbytes))

    def _check(self, address: int) -> None:
        """A value that numpy computed in between is one that a replay would not renew."""
        if not any(start <= address < end or address == start for start, end in self._known):
            self.recording.complete = False


def _word(kind: str, value: Any) -> int:
    """An argument as 64 bits, as `native/api.cpp` takes it apart."""
    if kind == "f":
        bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
        return bits
    return 0 if value is None else int(value)
