"""Uniform noise that is a pure function of (seed, sequence, position): Philox-4x32-10.

Source: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"; tested against its authors' known answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


def philox(counters: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Ten rounds of Philox-4x32 for each column.

    Shapes: counters [4, rows], keys [2, rows], values below 2^32; returns [4, rows], values below 2^32.
    """
    even, odd = counters[0::2].copy(), counters[1::2].copy()  # words 0 and 2, words 1 and 3
    key = keys.copy()
    step = np.array(_WEYL, dtype=np.uint64)[:, None]
    for _ in range(_ROUNDS):
        product = even * _MULTIPLIERS
        # Each half's new even word mixes the other half's high product with its own odd word.
        even = (product >> _WORD)[::-1] ^ odd ^ key
        odd = (product & _LOW)[::-1]
        key = (key + step) & _LOW
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniform(seeds: Sequence[int], sequence_indices: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """One number for each row, in [0, 1), with 53 random bits.

    `seeds` are taken modulo 2^64, the others modulo 2^32. Shapes: [rows] each; returns [rows].
    """
    words = [[position, sequence, 0, 0] for position, sequence in zip(positions, sequence_indices, strict=True)]
    counters = np.array(words, dtype=np.uint64).reshape(-1, 4).T & _LOW
    keys = np.array([[seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF] for seed in seeds], dtype=np.uint64).reshape(-1, 2).T
    bits = philox(counters, keys)
    high, low = (bits[0] >> np.uint64(5)).astype(np.float64), (bits[1] >> np.uint64(6)).astype(np.float64)
    fractions: npt.NDArray[np.float64] = (high * 2.0**26 + low) * 2.0**-53
    return fractions
