"""Which tokens are green: the watermark of Kirchenbauer et al., 2023 ("A Watermark for Large Language Models").

The token before a position seeds a shuffle of the vocabulary, whose first `gamma` share is green there. Generation
favours green tokens; a text that holds too many of them was generated. Scheme and key are those of TGI, and those of
transformers' `WatermarkingConfig(seeding_scheme="lefthash")`, whose `WatermarkDetector` agrees with `detect`.

The shuffle is torch's: Fisher-Yates over the Mersenne Twister. Here it is written out with numpy, because detection
runs where torch is not loaded, and asks for single tokens instead of whole lists (those are `logits.green_tokens`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HASH_KEY = 15485863  # the millionth prime


@dataclass(frozen=True, slots=True)
class Detection:
    """What a text's tokens say about its origin. Each pair of neighbours counts once, however often it comes."""

    num_tokens: int  # distinct pairs
    num_green: int  # pairs whose second token is green after the first
    z_score: float  # standard deviations above what a text without the watermark has
    p_value: float  # how likely such a text reaches this z-score

    @property
    def green_fraction(self) -> float:
        """The share of green tokens: near gamma without the watermark."""
        return self.num_green / self.num_tokens


def seed_after(previous: int) -> int:
    """The seed of the shuffle for the position after a token."""
    return HASH_KEY * previous % (2**64 - 1)


def detect(token_ids: Sequence[int], *, vocab_size: int, gamma: float) -> Detection:
    """Count the green tokens of a text without its prompt.

    `vocab_size` and `gamma` are those the text was generated with. Raises: ValueError for fewer than two tokens.
    """
    pairs = sorted(set(itertools.pairwise(token_ids)))
    if not pairs:
        raise ValueError("a text of one token has no watermark")
    num_green = 0
    before, targets = -1, np.empty(0, np.int64)
    for previous, token_id in pairs:  # sorted: one shuffle serves all successors of a token
        if previous != before:
            before, targets = previous, _targets(previous, vocab_size, gamma)
        num_green += _is_green(token_id, targets)
    expected = gamma * len(pairs)
    z_score = (num_green - expected) / math.sqrt(expected * (1 - gamma))
    return Detection(len(pairs), num_green, z_score, 0.5 * math.erfc(z_score / math.sqrt(2)))


def _targets(previous: int, vocab_size: int, gamma: float) -> npt.NDArray[np.int64]:
    """The shuffle as swaps: place i changes with place targets[i] >= i, for each place of the green list."""
    size = int(vocab_size * gamma)
    # Only the low 32 bits of a seed reach torch's generator.
    twister = np.random.RandomState(seed_after(previous) & 0xFFFFFFFF)
    places = np.arange(size, dtype=np.int64)
    return places + twister.randint(0, 2**32, size, dtype=np.uint32).astype(np.int64) % (vocab_size - places)


def _is_green(token_id: int, targets: npt.NDArray[np.int64]) -> bool:
    """Follow one token through the swaps: a place that was filled is never left again."""
    place, step = token_id, 0
    while True:
        caught = np.flatnonzero(targets[step : place + 1] == place)
        if len(caught):
            return True
        if place >= len(targets):
            return False
        place, step = int(targets[place]), place + 1
