"""Each processor gives, row by row, what transformers' processor of that name gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from tgi.runner import logits

ROWS = 6
# The small one is sorted whole everywhere; the large one takes the ways round that.
VOCABULARIES = [300, 5000]

CUTTING: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Any, list[float]]] = {
    "top_k": (logits.top_k, transformers.TopKLogitsWarper, [1, 2, 10, 50, 299, 100_000]),
    "top_p": (logits.top_p, transformers.TopPLogitsWarper, [0.01, 0.3, 0.5, 0.9, 0.95, 0.999]),
    "min_p": (logits.min_p, transformers.MinPLogitsWarper, [0.001, 0.01, 0.05, 0.2, 0.9, 1.0]),
    "typical_p": (logits.typical_p, transformers.TypicalLogitsWarper, [0.05, 0.2, 0.5, 0.9, 0.95, 0.999]),
    "temperature": (logits.temperature, transformers.TemperatureLogitsWarper, [0.1, 0.5, 0.7, 1.3, 2.0, 100.0]),
}


def random_scores(vocab: int, spread: float, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3)) * spread


def parameters(name: str, values: list[float]) -> Tensor:
    kind = {"top_k": torch.int64, "top_p": torch.float64, "typical_p": torch.float64}.get(name, torch.float32)
    return torch.tensor(values, dtype=kind)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("spread", [0.2, 3.0])
@pytest.mark.parametrize("name", CUTTING)
def test_a_processor_is_that_of_transformers(name: str, spread: float, vocab: int) -> None:
    ours, theirs, values = CUTTING[name]
    scores = random_scores(vocab, spread)
    expected = torch.cat([
        theirs(value)(None, scores[row : row + 1]) for row, value in enumerate(values)
    ])  # fmt: skip

    processed = ours(scores.clone(), parameters(name, values))

    torch.testing.assert_close(processed, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_processors_in_a_row_are_those_of_transformers(vocab: int) -> None:
    scores = random_scores(vocab, 2.0, rows=1)
    theirs = scores.clone()
    for warper in (
        transformers.TemperatureLogitsWarper(0.7), transformers.TopKLogitsWarper(80),
        transformers.TopPLogitsWarper(0.9), transformers.MinPLogitsWarper(0.02),
        transformers.TypicalLogitsWarper(0.8),
    ):  # fmt: skip
        theirs = warper(None, theirs)

    ours = logits.temperature(scores, torch.tensor([0.7]))
    ours = logits.top_k(ours, torch.tensor([80]))
    ours = logits.top_p(ours, torch.tensor([0.9], dtype=torch.float64))
    ours = logits.min_p(ours, torch.tensor([0.02]))
    ours = logits.typical_p(ours, torch.tensor([0.8], dtype=torch.float64))

    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_repetition_penalty_is_that_of_transformers() -> None:
    scores = random_scores(300, 2.0, rows=2)
    ids = torch.tensor([[5, 9, 9, 200], [0, 299, 1, 1]])
    penalties = [1.3, 0.8]
    expected = [
        transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids[row : row + 1], scores[row : row + 1])
        for row, penalty in enumerate(penalties)
    ]
    seen = torch.zeros(2, 300, dtype=torch.bool).scatter_(1, ids, True)

    ours = logits.repetition_penalty(scores.clone(), seen, torch.tensor(penalties))

    torch.testing.assert_close(ours, torch.cat(expected), rtol=1e-6, atol=0)


def test_frequency_penalty_grows_with_the_count_and_presence_penalty_does_not() -> None:
    counts = torch.tensor([[0.0, 1.0, 3.0]])

    frequency = logits.frequency_penalty(torch.ones(1, 3), counts, torch.tensor([0.5]))
    presence = logits.presence_penalty(torch.ones(1, 3), counts, torch.tensor([0.5]))

    assert frequency.tolist() == [[1.0, 0.5, -0.5]]
    assert presence.tolist() == [[1.0, 0.5, 0.5]]


def test_a_bias_is_added_to_its_tokens_alone() -> None:
    biased = logits.logit_bias(torch.zeros(2, 4), [{1: 2.5, 3: -1.0, 99: 7.0, -1: 7.0}, {}])

    assert biased.tolist() == [[0.0, 2.5, 0.0, -1.0], [0.0] * 4]


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p"])
def test_one_token_always_stays(name: str) -> None:
    ours = CUTTING[name][0]
    hardest = {"min_p": 1.0, "top_k": 1}.get(name, 1e-9)

    processed = ours(random_scores(300, 0.0 if name == "top_k" else 2.0), parameters(name, [hardest] * ROWS))

    assert (processed > logits.REMOVED).any(dim=-1).all()


def test_top_p_keeps_both_of_two_tokens_that_tie_at_the_edge() -> None:
    processed = logits.top_p(torch.tensor([[2.0, 1.0, 1.0, -9.0]]), torch.tensor([0.7], dtype=torch.float64))

    assert processed.tolist() == [[2.0, 1.0, 1.0, logits.REMOVED]]


@pytest.mark.parametrize("name", CUTTING)
def test_a_row_of_nan_harms_no_other_row(name: str) -> None:
    ours, _, values = CUTTING[name]
    scores = random_scores(300, 2.0)
    expected = ours(scores.clone(), parameters(name, values))
    scores[2] = torch.nan

    processed = ours(scores, parameters(name, values))

    others = [row for row in range(ROWS) if row != 2]
    assert torch.equal(processed[others], expected[others])


def test_log_probabilities_keep_their_digits_among_large_logits() -> None:
    scores = random_scores(50_000, 2.0) + 30
    ids = torch.arange(ROWS)
    expected = torch.log_softmax(scores.double(), dim=-1)[torch.arange(ROWS), ids]

    torch.testing.assert_close(logits.logprobs_of(scores, ids).double(), expected, rtol=0, atol=3e-6)


HISTORIES = ([5, 9, 9, 200, 5, 9], [0, 299, 1, 1, 1], [1, 2, 3, 1, 2, 3, 1, 2], [7])


def per_row(processor: Any, scores: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
    """What a processor of transformers makes of each row, by itself."""
    return torch.cat([
        processor(torch.tensor([history]), scores[row : row + 1]) for row, history in enumerate(histories)
    ])  # fmt: skip


def arrays(histories: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(history, np.int32) for history in histories]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 9])
def test_no_repeat_ngram_is_that_of_transformers(size: int) -> None:
    scores = random_scores(300, 2.0, rows=4)
    expected = per_row(transformers.NoRepeatNGramLogitsProcessor(size), scores, HISTORIES)

    ours = logits.no_repeat_ngram(scores.clone(), arrays(HISTORIES), [size] * 4)

    assert torch.equal(ours, expected)


def test_no_repeat_ngram_finds_what_a_long_random_history_repeats() -> None:
    history = np.random.default_rng(1).integers(0, 20, 500, dtype=np.int32)
    scores = random_scores(300, 2.0, rows=1)
    for size in (1, 2, 3, 4):
        expected = per_row(transformers.NoRepeatNGramLogitsProcessor(size), scores, [history.tolist()])
        assert torch.equal(logits.no_repeat_ngram(scores.clone(), [history], [size]), expected)


def test_bad_words_are_those_of_transformers() -> None:
    words = [[3], [9, 4], [5, 9, 60], [1, 2, 250], [299, 1, 1, 1, 8]]
    scores = random_scores(300, 2.0, rows=3)
    expected = per_row(transformers.NoBadWordsLogitsProcessor(words), scores, HISTORIES[:3])

    ours = logits.bad_words(scores.clone(), arrays(HISTORIES[:3]), [logits.BadWords(words)] * 3)

    assert torch.equal(ours, expected)
    assert (expected == logits.REMOVED).sum() > 3


def test_a_bad_word_may_begin_with_the_first_token_of_all() -> None:
    ours = logits.bad_words(torch.zeros(1, 9), arrays([[4]]), [logits.BadWords([(4, 5), (3, 4, 6), (4, 4, 4, 7)])])

    assert torch.nonzero(ours == logits.REMOVED)[:, 1].tolist() == [5]


def test_only_keeps_what_transformers_keeps() -> None:
    scores = random_scores(300, 2.0, rows=2)
    allowed = [[4, 7, 299], [0]]
    expected = torch.cat([
        transformers.PrefixConstrainedLogitsProcessor(lambda batch, ids, row=row: allowed[row], 1)(
            torch.tensor([[1]]), scores[row : row + 1]
        )
        for row in range(2)
    ])  # fmt: skip
    mask = torch.zeros(2, 300, dtype=torch.bool)
    for row, ids in enumerate(allowed):
        mask[row, ids] = True

    assert torch.equal(logits.only(scores.clone(), mask), expected)


def test_withheld_tokens_are_those_of_transformers() -> None:
    scores = random_scores(300, 2.0, rows=1)
    theirs = transformers.MinNewTokensLengthLogitsProcessor(2, 3, [5, 17])
    expected = theirs(torch.tensor([[1, 2, 3]]), scores.clone())

    assert torch.equal(logits.withhold(scores.clone(), [(5, 17)]), expected)


def test_withheld_tokens_return_where_nothing_else_is_left() -> None:
    scores = torch.full((2, 6), logits.REMOVED)
    scores[:, [2, 4]] = torch.tensor([1.0, 3.0])

    ours = logits.withhold(scores.clone(), [(2, 4, 5), (2,)])

    assert torch.equal(ours[0], scores[0])
    assert torch.nonzero(ours[1] > logits.REMOVED).view(-1).tolist() == [4]


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_the_watermark_is_that_of_transformers(gamma: float) -> None:
    scores = random_scores(300, 2.0, rows=4)
    theirs = transformers.WatermarkLogitsProcessor(
        300, "cpu", greenlist_ratio=gamma, bias=1.7, seeding_scheme="lefthash"
    )
    expected = per_row(theirs, scores, HISTORIES)
    green = torch.stack([logits.green_tokens(history[-1], 300, gamma) for history in HISTORIES])

    ours = logits.watermark(scores.clone(), green, torch.tensor([1.7] * 4))

    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("vocab", [31, 32, 33, 300])
def test_a_bitmask_allows_the_tokens_whose_bits_are_set(vocab: int) -> None:
    allowed = torch.rand(3, vocab, generator=torch.Generator().manual_seed(1)) < 0.5
    words = np.zeros((3, -(-vocab // 32)), np.int64)
    for row, token_id in torch.nonzero(allowed).tolist():
        words[row, token_id // 32] |= 1 << token_id % 32
    bitmask = words.astype(np.uint32).view(np.int32)

    assert torch.equal(logits.unpack_bits(bitmask, vocab), allowed)
