"""Noise is a published function of (seed, sequence, position), and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tgi.runner.noise import philox, uniform

# Source: Random123's kat_vectors, philox4x32 10.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    bits = philox(np.array([counter], dtype=np.uint64).T, np.array([key], dtype=np.uint64).T)

    assert tuple(bits[:, 0].tolist()) == answer


def test_a_number_is_the_same_alone_and_among_others() -> None:
    seeds, sequences, positions = [0, 7, 2**64 - 1, 7], [0, 1, 0, 3], [5, 5, 2**31, 5]

    together = uniform(seeds, sequences, positions)

    alone = [uniform([seed], [sequence], [position])[0] for seed, sequence, position in zip(
        seeds, sequences, positions, strict=True)]  # fmt: skip
    assert together.tolist() == alone


@pytest.mark.parametrize("other", [(2, 0, 0), (1 + 2**32, 0, 0), (1 + 2**63, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_seed_sequence_and_position_all_matter(other: tuple[int, int, int]) -> None:
    assert uniform([1], [0], [0])[0] != uniform([other[0]], [other[1]], [other[2]])[0]


def test_numbers_are_spread_evenly_below_one() -> None:
    count = 20_000

    numbers = uniform([42] * count, [0] * count, list(range(count)))

    assert numbers.min() >= 0
    assert numbers.max() < 1
    histogram = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert np.abs(histogram - count / 20).max() < 5 * np.sqrt(count / 20)


def test_no_rows_need_no_noise() -> None:
    assert uniform([], [], []).shape == (0,)
