"""Each processor gives, row by row, what transformers' processor of that name gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tgi.runner import logits
from tgi.runner.logits import Bool
from tgi.runner.plan import Float32
from tgi.runner.watermark import green_tokens

ROWS = 6
# The small one is sorted whole everywhere; the large one takes the ways round that.
VOCABULARIES = [300, 5000]

CUTTING: dict[str, tuple[Callable[[Float32, Any], Float32], Any, list[float]]] = {
    "top_k": (logits.top_k, transformers.TopKLogitsWarper, [1, 2, 10, 50, 299, 100_000]),
    "top_p": (logits.top_p, transformers.TopPLogitsWarper, [0.01, 0.3, 0.5, 0.9, 0.95, 0.999]),
    "min_p": (logits.min_p, transformers.MinPLogitsWarper, [0.001, 0.01, 0.05, 0.2, 0.9, 1.0]),
    "typical_p": (logits.typical_p, transformers.TypicalLogitsWarper, [0.05, 0.2, 0.5, 0.9, 0.95, 0.999]),
    "temperature": (logits.temperature, transformers.TemperatureLogitsWarper, [0.1, 0.5, 0.7, 1.3, 2.0, 100.0]),
}


def random_scores(vocab: int, spread: float, rows: int = ROWS) -> Float32:
    noise: Float32 = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3)).numpy()
    return noise * np.float32(spread)


def parameters(name: str, values: list[float]) -> np.ndarray:
    return np.array(values, {"top_k": np.int64, "top_p": np.float64, "typical_p": np.float64}.get(name, np.float32))


def theirs_on(processor: Any, scores: Float32, ids: Sequence[int] | None = None) -> Float32:
    """What a processor of transformers makes of scores, [1, vocab], after some tokens."""
    history = torch.tensor([ids]) if ids is not None else None
    processed: Float32 = processor(history, torch.from_numpy(scores.copy())).numpy()
    return processed


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("spread", [0.2, 3.0])
@pytest.mark.parametrize("name", CUTTING)
def test_a_processor_is_that_of_transformers(name: str, spread: float, vocab: int) -> None:
    ours, theirs, values = CUTTING[name]
    scores = random_scores(vocab, spread)
    expected = np.concatenate([theirs_on(theirs(value), scores[row : row + 1]) for row, value in enumerate(values)])

    processed = ours(scores.copy(), parameters(name, values))

    np.testing.assert_allclose(processed, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_processors_in_a_row_are_those_of_transformers(vocab: int) -> None:
    scores = random_scores(vocab, 2.0, rows=1)
    theirs = scores.copy()
    for warper in (
        transformers.TemperatureLogitsWarper(0.7), transformers.TopKLogitsWarper(80),
        transformers.TopPLogitsWarper(0.9), transformers.MinPLogitsWarper(0.02),
        transformers.TypicalLogitsWarper(0.8),
    ):  # fmt: skip
        theirs = theirs_on(warper, theirs)

    ours = logits.temperature(scores, np.array([0.7], np.float32))
    ours = logits.top_k(ours, np.array([80]))
    ours = logits.top_p(ours, np.array([0.9]))
    ours = logits.min_p(ours, np.array([0.02], np.float32))
    ours = logits.typical_p(ours, np.array([0.8]))

    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)


def test_repetition_penalty_is_that_of_transformers() -> None:
    scores = random_scores(300, 2.0, rows=2)
    ids = [[5, 9, 9, 200], [0, 299, 1, 1]]
    penalties = [1.3, 0.8]
    expected = [
        theirs_on(transformers.RepetitionPenaltyLogitsProcessor(penalty), scores[row : row + 1], ids[row])
        for row, penalty in enumerate(penalties)
    ]

    ours = logits.repetition_penalty(scores.copy(), marked(ids), np.array(penalties, np.float32))

    np.testing.assert_allclose(ours, np.concatenate(expected), rtol=1e-6, atol=0)


def marked(ids: Sequence[Sequence[int]], vocab: int = 300) -> Bool:
    marks = np.zeros((len(ids), vocab), np.bool_)
    for row, of_row in enumerate(ids):
        marks[row, of_row] = True
    return marks


def test_frequency_penalty_grows_with_the_count_and_presence_penalty_does_not() -> None:
    counts = np.array([[0.0, 1.0, 3.0]], np.float32)

    frequency = logits.frequency_penalty(np.ones((1, 3), np.float32), counts, np.array([0.5], np.float32))
    presence = logits.presence_penalty(np.ones((1, 3), np.float32), counts, np.array([0.5], np.float32))

    assert frequency.tolist() == [[1.0, 0.5, -0.5]]
    assert presence.tolist() == [[1.0, 0.5, 0.5]]


def test_a_bias_is_added_to_its_tokens_alone() -> None:
    biased = logits.logit_bias(np.zeros((2, 4), np.float32), [{1: 2.5, 3: -1.0, 99: 7.0, -1: 7.0}, {}])

    assert biased.tolist() == [[0.0, 2.5, 0.0, -1.0], [0.0] * 4]


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p"])
def test_one_token_always_stays(name: str) -> None:
    ours = CUTTING[name][0]
    hardest = {"min_p": 1.0, "top_k": 1}.get(name, 1e-9)

    processed = ours(random_scores(300, 0.0 if name == "top_k" else 2.0), parameters(name, [hardest] * ROWS))

    assert (processed > logits.REMOVED).any(axis=-1).all()


def test_top_p_keeps_both_of_two_tokens_that_tie_at_the_edge() -> None:
    processed = logits.top_p(np.array([[2.0, 1.0, 1.0, -9.0]], np.float32), np.array([0.7]))

    assert processed.tolist() == [[2.0, 1.0, 1.0, logits.REMOVED]]


@pytest.mark.parametrize("name", CUTTING)
def test_a_row_of_nan_harms_no_other_row(name: str) -> None:
    ours, _, values = CUTTING[name]
    scores = random_scores(300, 2.0)
    expected = ours(scores.copy(), parameters(name, values))
    scores[2] = np.nan

    processed = ours(scores, parameters(name, values))

    others = [row for row in range(ROWS) if row != 2]
    assert np.array_equal(processed[others], expected[others])
    assert np.isnan(processed[2]).all()


@pytest.mark.parametrize("vocab", [33, 1003, 5001, 49_153])
@pytest.mark.parametrize("spread", [0.2, 3.0])
def test_a_row_is_the_same_to_the_last_bit_alone_and_among_others(vocab: int, spread: float) -> None:
    scores = random_scores(vocab, spread)  # rows of an odd length begin at every alignment
    ids = np.arange(ROWS, dtype=np.int32)
    for name, (ours, _, values) in CUTTING.items():
        together = ours(scores.copy(), parameters(name, values))
        reverse = ours(scores[::-1].copy(), parameters(name, values[::-1]))[::-1]
        alone = [ours(scores[row : row + 1].copy(), parameters(name, values[row : row + 1])) for row in range(ROWS)]

        assert together.tobytes() == np.concatenate(alone).tobytes() == reverse.tobytes()
    for row, of_row in enumerate(scores):
        likely, alone_likely = logits.weights(of_row), logits.weights(of_row.copy())
        assert likely is not None
        assert alone_likely is not None
        assert likely.tobytes() == alone_likely.tobytes()
        logprob = logits.logprobs_of(scores[row : row + 1].copy(), ids[row : row + 1])
        assert logits.logprobs_of(scores, ids)[row : row + 1].tobytes() == logprob.tobytes()


@pytest.mark.parametrize("left", [1, 40, 700, 5000])
@pytest.mark.parametrize("count", [1, 50, 512, 1024, 5000])
def test_as_many_tokens_as_asked_for_reach_a_score(left: int, count: int) -> None:
    row = random_scores(5000, 1.0, rows=1)[0]
    row[np.random.default_rng(2).permutation(5000)[left:]] = logits.REMOVED

    found = np.sort(row[row >= logits.reached(row, count)])[::-1]

    assert len(found) >= min(left, count)
    assert np.array_equal(found, np.sort(row)[::-1][: len(found)])
    assert found[-1] > logits.REMOVED


def test_log_probabilities_keep_their_digits_among_large_logits() -> None:
    scores = random_scores(50_000, 2.0) + np.float32(30)
    ids = np.arange(ROWS, dtype=np.int32)
    expected = torch.log_softmax(torch.from_numpy(scores).double(), dim=-1)[ids, ids].numpy()

    np.testing.assert_allclose(logits.logprobs_of(scores, ids), expected, rtol=0, atol=3e-6)


HISTORIES = ([5, 9, 9, 200, 5, 9], [0, 299, 1, 1, 1], [1, 2, 3, 1, 2, 3, 1, 2], [7])


def per_row(processor: Any, scores: Float32, histories: Sequence[Sequence[int]]) -> Float32:
    """What a processor of transformers makes of each row, by itself."""
    return np.concatenate([
        theirs_on(processor, scores[row : row + 1], history) for row, history in enumerate(histories)
    ])  # fmt: skip


def arrays(histories: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(history, np.int32) for history in histories]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 9])
def test_no_repeat_ngram_is_that_of_transformers(size: int) -> None:
    scores = random_scores(300, 2.0, rows=4)
    expected = per_row(transformers.NoRepeatNGramLogitsProcessor(size), scores, HISTORIES)

    ours = logits.no_repeat_ngram(scores.copy(), arrays(HISTORIES), [size] * 4)

    assert np.array_equal(ours, expected)


def test_no_repeat_ngram_finds_what_a_long_random_history_repeats() -> None:
    history = np.random.default_rng(1).integers(0, 20, 500, dtype=np.int32)
    scores = random_scores(300, 2.0, rows=1)
    for size in (1, 2, 3, 4):
        expected = per_row(transformers.NoRepeatNGramLogitsProcessor(size), scores, [history.tolist()])
        assert np.array_equal(logits.no_repeat_ngram(scores.copy(), [history], [size]), expected)


def test_bad_words_are_those_of_transformers() -> None:
    words = [[3], [9, 4], [5, 9, 60], [1, 2, 250], [299, 1, 1, 1, 8]]
    scores = random_scores(300, 2.0, rows=3)
    expected = per_row(transformers.NoBadWordsLogitsProcessor(words), scores, HISTORIES[:3])

    ours = logits.bad_words(scores.copy(), arrays(HISTORIES[:3]), [logits.BadWords(words)] * 3)

    assert np.array_equal(ours, expected)
    assert (expected == logits.REMOVED).sum() > 3


def test_a_bad_word_may_begin_with_the_first_token_of_all() -> None:
    ours = logits.bad_words(
        np.zeros((1, 9), np.float32), arrays([[4]]), [logits.BadWords([(4, 5), (3, 4, 6), (4, 4, 4, 7)])]
    )

    assert np.flatnonzero(ours[0] == logits.REMOVED).tolist() == [5]


def test_only_keeps_what_transformers_keeps() -> None:
    scores = random_scores(300, 2.0, rows=2)
    allowed = [[4, 7, 299], [0]]
    expected = np.concatenate([
        theirs_on(
            transformers.PrefixConstrainedLogitsProcessor(lambda batch, ids, row=row: allowed[row], 1),
            scores[row : row + 1], [1],
        )
        for row in range(2)
    ])  # fmt: skip

    assert np.array_equal(logits.only(scores.copy(), marked(allowed)), expected)


def test_withheld_tokens_are_those_of_transformers() -> None:
    scores = random_scores(300, 2.0, rows=1)
    theirs = transformers.MinNewTokensLengthLogitsProcessor(2, 3, [5, 17])
    expected = theirs_on(theirs, scores, [1, 2, 3])

    assert np.array_equal(logits.withhold(scores.copy(), [(5, 17)]), expected)


def test_withheld_tokens_return_where_nothing_else_is_left() -> None:
    scores = np.full((2, 6), logits.REMOVED, np.float32)
    scores[:, [2, 4]] = [1.0, 3.0]

    ours = logits.withhold(scores.copy(), [(2, 4, 5), (2,)])

    assert np.array_equal(ours[0], scores[0])
    assert np.flatnonzero(ours[1] > logits.REMOVED).tolist() == [4]


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_the_watermark_is_that_of_transformers(gamma: float) -> None:
    scores = random_scores(300, 2.0, rows=4)
    theirs = transformers.WatermarkLogitsProcessor(
        300, "cpu", greenlist_ratio=gamma, bias=1.7, seeding_scheme="lefthash"
    )
    expected = per_row(theirs, scores, HISTORIES)
    green = np.stack([green_tokens(history[-1], 300, gamma) for history in HISTORIES])

    ours = logits.watermark(scores.copy(), green, np.array([1.7] * 4, np.float32))

    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("vocab", [31, 32, 33, 300])
def test_a_bitmask_allows_the_tokens_whose_bits_are_set(vocab: int) -> None:
    allowed = np.random.default_rng(1).random((3, vocab)) < 0.5
    words = np.zeros((3, -(-vocab // 32)), np.int64)
    for row, token_id in np.argwhere(allowed).tolist():
        words[row, token_id // 32] |= 1 << token_id % 32
    bitmask = words.astype(np.uint32).view(np.int32)

    assert np.array_equal(logits.unpack_bits(bitmask, vocab), allowed)
