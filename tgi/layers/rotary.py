"""Rotary positions: tables of cosines and sines, looked up by position, one set for each variant of the scaling."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.forward_batch import ForwardBatch
from tgi.layers.rope_scaling import RopeConfig

# Tables grow by whole pieces of one size, so that an entry's value never depends on which lengths were asked before:
# vector and remainder code paths of a cosine may differ in the last bit.
PIECE = 1024
MAX_TABLES = 16


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far to turn each token's pairs: cos and sin [T, dim / 2] float32."""

    cos: Array
    sin: Array
    interleaved: bool  # pairs are (2i, 2i+1), else (i, i + dim/2)


class Rotary:
    """Positions to rotations. The result for a token depends on its position and its request's variant alone."""

    def __init__(self, rope: RopeConfig, *, interleaved: bool = False, divisors: Array | None = None) -> None:
        """`divisors` [dim / 2] divides the frequencies: a GGUF file's way to say llama3 scaling."""
        self.rope = rope
        self._interleaved = interleaved
        self._divisors = divisors
        self._tables: OrderedDict[int, _Table] = OrderedDict()

    def __call__(self, batch: ForwardBatch) -> Rotation:
        """The rotations of this step's tokens."""
        cos, sin = kernels.refreshed(lambda: self._look_up(batch))
        return Rotation(cos, sin, self._interleaved)

    def _look_up(self, batch: ForwardBatch) -> tuple[Array, Array]:
        places = batch.positions
        if not batch.rope_variants.any():  # without a loop: of a step of few tokens it would be a good part
            cos, sin = self._table(0).up_to(int(places.max()) + 1)
            return cos[places], sin[places]
        variants = batch.rope_variants.repeat(np.diff(batch.query_starts))  # [T]
        shape = len(variants), self.rope.dim // 2
        cos, sin = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for variant in sorted(set(batch.rope_variants.tolist())):
            chosen = variants == variant
            positions = places[chosen]
            table_cos, table_sin = self._table(variant).up_to(int(positions.max()) + 1)
            cos[chosen], sin[chosen] = table_cos[positions], table_sin[positions]
        return cos, sin

    def _table(self, variant: int) -> _Table:
        table = self._tables.get(variant)
        if table is None:
            frequencies, factor = self.rope.frequencies(variant)
            if self._divisors is not None:
                frequencies = frequencies / self._divisors
            table = self._tables[variant] = _Table(frequencies, factor)
            if len(self._tables) > MAX_TABLES:
                # Variant 0 serves nearly every request: it is never the one to go.
                self._tables.pop(next(key for key in self._tables if key not in (0, variant)))
        self._tables.move_to_end(variant)
        return table


class _Table:
    """Cosines and sines of every position up to the longest asked for, of angles in float32 as transformers has them.

    They are computed in float64: rounded from that, they are the same on every processor, whatever its vectors.
    """

    def __init__(self, frequencies: Array, factor: float) -> None:
        self._frequencies = frequencies
        self._factor = np.float32(factor)
        self._cos = np.empty((0, len(frequencies)), np.float32)
        self._sin = self._cos

    def up_to(self, length: int) -> tuple[Array, Array]:
        """Tables of at least `length` positions: [positions, dim / 2] each."""
        have = len(self._cos)
        if length > have:
            # At least doubling keeps the copying of a growing table linear.
            wanted = -(-max(length, 2 * have) // PIECE)
            angles = [self._angles(piece * PIECE) for piece in range(have // PIECE, wanted)]
            self._cos = np.concatenate([self._cos, *(self._scaled(np.cos(angle)) for angle in angles)])
            self._sin = np.concatenate([self._sin, *(self._scaled(np.sin(angle)) for angle in angles)])
        return self._cos, self._sin

    def _angles(self, first: int) -> Array:
        angles = np.arange(first, first + PIECE, dtype=np.float32)[:, None] * self._frequencies
        return angles.astype(np.float64)

    def _scaled(self, values: Array) -> Array:
        return values.astype(np.float32) * self._factor
