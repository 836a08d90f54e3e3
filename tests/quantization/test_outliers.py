"""Which columns `--quantize int8` leaves out of its groups."""

from __future__ import annotations

import numpy as np

from tgi.quantization import outliers


def test_the_columns_that_widen_their_groups_are_chosen() -> None:
    x = np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32)
    x[:, [5, 40, 41]] *= 50
    found = outliers.choose(x)
    assert {5, 40, 41} <= set(found)
    assert found == sorted(set(found))
    x[:, found] = 0
    assert np.abs(x).max() < 6


def test_no_more_are_chosen_than_pay_or_than_there_may_be() -> None:
    random = np.random.default_rng(0)
    assert outliers.choose(np.ones((8, 640), np.float32)) == []
    assert outliers.choose(np.zeros((8, 64), np.float32)) == []
    assert outliers.choose(np.full((8, 64), np.nan, np.float32)) == []
    x = random.standard_normal((32, 64)).astype(np.float32)
    x[:, ::2] *= 1000 * np.arange(1, 33)
    assert len(outliers.choose(x)) == outliers.MOST


def test_columns_behind_the_last_whole_group_count() -> None:
    x = np.ones((4, 40), np.float32)
    x[:, 39] = 100
    assert outliers.choose(x) == [39]


def test_the_tokens_are_in_any_vocabulary_and_differ() -> None:
    for size in (1, 7, 49_152, 262_144):
        ids = outliers.tokens(size)
        assert len(ids) == outliers.NUM_TOKENS
        assert ids.min() >= 0
        assert ids.max() < size
    assert len(set(outliers.tokens(49_152).tolist())) == outliers.NUM_TOKENS
