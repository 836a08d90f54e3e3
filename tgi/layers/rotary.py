"""Rotary positions: tables of cosines and sines, looked up by position, one set for each variant of the scaling."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from tgi import kernels
from tgi.layers.forward_batch import ForwardBatch
from tgi.layers.rope_scaling import RopeConfig

# Tables grow by whole pieces of one size, so that an entry's value never depends on which lengths were asked before:
# vector and remainder code paths of a cosine may differ in the last bit.
PIECE = 1024
MAX_TABLES = 16


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far to turn each token's pairs: cos and sin [T, dim / 2] float32."""

    cos: Tensor
    sin: Tensor
    interleaved: bool  # pairs are (2i, 2i+1), else (i, i + dim/2)


class Rotary:
    """Positions to rotations. The result for a token depends on its position and its request's variant alone."""

    def __init__(self, rope: RopeConfig, *, interleaved: bool = False, divisors: Tensor | None = None) -> None:
        """`divisors` [dim / 2] divides the frequencies: a GGUF file's way to say llama3 scaling."""
        self.rope = rope
        self._interleaved = interleaved
        self._divisors = divisors
        self._tables: OrderedDict[int, _Table] = OrderedDict()

    def __call__(self, batch: ForwardBatch) -> Rotation:
        """The rotations of this step's tokens."""
        cos, sin = kernels.refreshed(lambda: self._look_up(batch))
        return Rotation(cos, sin, self._interleaved)

    def _look_up(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        # By numpy, and the first variant without a loop: of a step of few tokens, torch's calls would be a good part.
        places = batch.positions.numpy()
        if not batch.rope_variants.numpy().any():
            cos, sin = self._table(0).up_to(int(places.max()) + 1)
            return torch.from_numpy(cos.numpy()[places]), torch.from_numpy(sin.numpy()[places])
        counts = batch.query_starts.diff()
        variants = batch.rope_variants.repeat_interleave(counts)  # [T]
        cos = torch.empty(len(variants), self.rope.dim // 2)
        sin = torch.empty_like(cos)
        for variant in sorted(set(batch.rope_variants.tolist())):
            chosen = variants == variant
            positions = batch.positions[chosen]
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
    """Cosines and sines of every position up to the longest asked for, in float32 as transformers computes them."""

    def __init__(self, frequencies: Tensor, factor: float) -> None:
        self._frequencies = frequencies
        self._factor = factor
        self._cos = torch.empty(0, len(frequencies))
        self._sin = torch.empty(0, len(frequencies))

    def up_to(self, length: int) -> tuple[Tensor, Tensor]:
        """Tables of at least `length` positions: [positions, dim / 2] each."""
        have = len(self._cos)
        if length > have:
            # At least doubling keeps the copying of a growing table linear.
            wanted = -(-max(length, 2 * have) // PIECE)
            angles = [
                torch.arange(piece * PIECE, (piece + 1) * PIECE, dtype=torch.float32)[:, None] * self._frequencies
                for piece in range(have // PIECE, wanted)
            ]
            self._cos = torch.cat([self._cos, *(angle.cos() * self._factor for angle in angles)])
            self._sin = torch.cat([self._sin, *(angle.sin() * self._factor for angle in angles)])
        return self._cos, self._sin
