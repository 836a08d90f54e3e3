"""Which tokens are green: the watermark of Kirchenbauer et al., 2023 ("A Watermark for Large Language Models").

The token before a position seeds a shuffle of the vocabulary, whose first `gamma` share is green there. Generation
favours green tokens; a text that holds too many of them was generated. Scheme and key are those of TGI, and those of
transformers' `WatermarkingConfig(seeding_scheme="lefthash")`, whose `WatermarkDetector` agrees with `detect`.

The shuffle is torch's: Fisher-Yates over the Mersenne Twister. Here it is written out with numpy, for torch is not
loaded where texts are generated, nor where they are checked.
"""

from __future__ import annotations

import functools
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
    for previous, token_id in pairs:
        num_green += token_id < vocab_size and bool(green_tokens(previous, vocab_size, gamma)[token_id])
    expected = gamma * len(pairs)
    z_score = (num_green - expected) / math.sqrt(expected * (1 - gamma))
    return Detection(len(pairs), num_green, z_score, 0.5 * math.erfc(z_score / math.sqrt(2)))


@functools.lru_cache(maxsize=64)
def green_tokens(previous: int, vocab_size: int, gamma: float) -> npt.NDArray[np.bool_]:
    """Which tokens are green after a token: [vocab_size] bool, read-only.

    They are the first `vocab_size * gamma` of `torch.randperm(vocab_size)`, after `torch.manual_seed(seed_after(...))`.
    """
    size = int(vocab_size * gamma)
    swaps = np.arange(size)
    # Place i changes with place targets[i] >= i. Only the low 32 bits of a seed reach torch's generator.
    twister = np.random.RandomState(seed_after(previous) & 0xFFFFFFFF)
    distances = twister.randint(0, 2**32, size, dtype=np.uint32) % (vocab_size - swaps).astype(np.uint32)
    targets = swaps + distances
    # Which swap was the last to put a token there; where none was, the place holds its own.
    last = np.full(vocab_size, -1)
    last[targets] = swaps
    # Red are the tokens that are left behind the first `size` places. The one that swap i puts into targets[i] was at
    # place i: it began there, or an earlier swap put it there.
    red, came = np.arange(size, vocab_size), last[size:]
    places = np.flatnonzero(came >= 0)
    tokens = came[places]
    while len(places):
        red[places] = tokens
        earlier = last[tokens]
        places, tokens = places[earlier >= 0], earlier[earlier >= 0]
    green = np.ones(vocab_size, np.bool_)
    green[red] = False
    green.flags.writeable = False
    return green
