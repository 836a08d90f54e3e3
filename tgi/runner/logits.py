"""Logits processors: each changes rows of scores by parameters of each row, and no row's result depends on another's.

Results are those of transformers' processors and warpers of the same name, row by row; where two tokens tie at the
edge of `top_p`, both stay, for a sort must not choose between them. Rows are independent to the last bit because what
adds numbers up, or looks for the highest, is given one row at a time, which also fits into the processor's cache.

Shapes everywhere: scores [rows, vocab] float32, C-contiguous, changed in place and returned; parameters [rows]. A row
that is no distribution (a NaN, +inf, or nothing but -inf) comes out as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tgi.runner.plan import Float32, Int32, Int64

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

REMOVED = float("-inf")
LOWEST = float(np.finfo(np.float32).min)  # what is below was removed
NEAREST = 512  # tokens that `top_p` and `typical_p` look at before they sort the vocabulary
UNHEARD_OF = 200.0  # a surprise whose probability is zero in float32
COLUMNS = 1024  # in which `reached` looks for the highest scores


def repetition_penalty(scores: Float32, seen: Bool, penalties: Float32) -> Float32:
    """Divide positive scores of seen tokens by the penalty, multiply negative ones. `seen`: [rows, vocab] bool.

    Source: CTRL (Keskar et al., 2019), as transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    for row, of_row, penalty in zip(scores, seen, penalties, strict=True):
        ids = np.flatnonzero(of_row)
        values = row[ids]
        row[ids] = np.where(values < 0, values * penalty, values / penalty)
    return scores


def frequency_penalty(scores: Float32, counts: Float32, penalties: Float32) -> Float32:
    """Subtract the penalty once for each time a token was generated. `counts`: [rows, vocab] float32."""
    scores -= counts * penalties[:, None]
    return scores


def presence_penalty(scores: Float32, counts: Float32, penalties: Float32) -> Float32:
    """Subtract the penalty from every token that was generated. `counts`: [rows, vocab] float32."""
    scores -= (counts > 0) * penalties[:, None]
    return scores


def logit_bias(scores: Float32, biases: Sequence[Mapping[int, float]]) -> Float32:
    """Add to the scores of single tokens. Ids outside the vocabulary mean nothing, and change nothing."""
    vocab = scores.shape[-1]
    for row, bias in zip(scores, biases, strict=True):
        known = {token_id: value for token_id, value in bias.items() if 0 <= token_id < vocab}
        row[np.array(list(known), np.int64)] += np.array(list(known.values()), np.float32)
    return scores


def watermark(scores: Float32, green: Bool, deltas: Float32) -> Float32:
    """Favour green tokens. `green`: [rows, vocab] bool, from `tgi.runner.watermark.green_tokens`.

    Source: Kirchenbauer et al., 2023, algorithm 2, as TGI's and transformers' `WatermarkLogitsProcessor`.
    """
    scores += green * deltas[:, None]
    return scores


def no_repeat_ngram(scores: Float32, histories: Sequence[Int32], sizes: Sequence[int]) -> Float32:
    """Remove the tokens that would complete a run of `size` tokens that the history already holds.

    Source: fairseq, as transformers' `NoRepeatNGramLogitsProcessor`. Shapes: one history, [tokens] ids, a row.
    """
    vocab = scores.shape[-1]
    for row, history, size in zip(scores, histories, sizes, strict=True):
        if len(history) < size:
            continue
        ends = np.arange(size - 1, len(history))  # where a run of `size` tokens ends
        for back in range(1, size):  # of those, the ones whose earlier tokens are the last ones of the history
            ends = ends[history[ends - back] == history[-back]]
            if not len(ends):
                break
        completing = history[ends]
        row[completing[completing < vocab]] = REMOVED
    return scores


class BadWords:
    """Token sequences that must not become complete, found by what comes before their last token."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._last: dict[tuple[int, ...], list[int]] = {}
        for word in words:
            self._last.setdefault(tuple(word[:-1]), []).append(word[-1])
        self._lengths = sorted({len(before) for before in self._last})

    def completing(self, history: Int32) -> list[int]:
        """The tokens that would complete a word."""
        recent = history[max(0, len(history) - max(self._lengths, default=0)) :].tolist()
        found: list[int] = []
        for length in self._lengths:
            if length <= len(recent):
                found += self._last.get(tuple(recent[len(recent) - length :]), ())
        return found


def bad_words(scores: Float32, histories: Sequence[Int32], words: Sequence[BadWords]) -> Float32:
    """Remove the tokens that would complete a bad word.

    As transformers' `NoBadWordsLogitsProcessor`. Shapes: one history, [tokens] ids, a row.
    """
    for row, history, of_row in zip(scores, histories, words, strict=True):
        row[np.array(of_row.completing(history), np.int64)] = REMOVED
    return scores


def only(scores: Float32, allowed: Bool) -> Float32:
    """Remove everything that is not allowed. `allowed`: [rows, vocab] bool."""
    _remove(scores, ~allowed)
    return scores


def unpack_bits(bitmask: Int32, vocab: int) -> Bool:
    """What a grammar allows, as `only` takes it: bit t % 32 of word t // 32 stands for token t.

    Shapes: bitmask [rows, ceil(vocab / 32)] int32; returns [rows, vocab] bool.
    """
    return np.unpackbits(bitmask.view(np.uint8), axis=-1, count=vocab, bitorder="little").view(np.bool_)


def withhold(scores: Float32, ids: Sequence[Sequence[int]]) -> Float32:
    """Remove tokens from each row, unless that would leave it nothing: ending is better than failing.

    As transformers' `MinNewTokensLengthLogitsProcessor`, but for its rows that have nothing left.
    """
    for row, of_row in zip(scores, ids, strict=True):
        index = np.array(of_row, np.int64)
        before = row[index]
        row[index] = REMOVED
        if row.max() == REMOVED:
            row[index] = before
    return scores


def temperature(scores: Float32, temperatures: Float32) -> Float32:
    """Divide by the temperature, which is positive: above 1 flattens, below 1 sharpens."""
    scores /= temperatures[:, None]
    return scores


def top_k(scores: Float32, counts: Int64) -> Float32:
    """Keep the `counts` highest scores of each row, and those that tie with the last of them."""
    for row, count in zip(scores, counts.tolist(), strict=True):
        highest = row[row >= reached(row, count)]
        if len(highest) >= count:  # else fewer than that are left in the row
            _remove(row, row < np.partition(highest, -count)[-count])
    return scores


def top_p(scores: Float32, masses: Float64) -> Float32:
    """Keep the fewest most likely tokens that reach the mass together (at least one). Source: Holtzman et al., 2019."""
    vocab = scores.shape[-1]
    for row, mass in zip(scores, masses.tolist(), strict=True):
        likely = weights(row)
        if likely is None:
            continue
        total = float(likely.sum())
        highest, sums = _descending(row[row >= reached(row, NEAREST)], total)
        if sums[-1] < mass:
            # Tokens below this cannot be among the kept: all of them together weigh less than 1 - mass.
            highest, sums = _descending(row[likely >= np.float32((1 - mass) / vocab * total)], total)
        kept = 1 + int((sums[:-1] < mass).sum())  # a token is kept whose predecessors do not reach the mass
        _remove(row, row < highest[kept - 1])
    return scores


def _descending(highest: Float32, total: float) -> tuple[Float32, Float64]:
    """The scores from the highest on, and the running sum of what they weigh in float64."""
    ordered = np.sort(highest)[::-1]
    return ordered, np.cumsum(np.exp(ordered - ordered[0]).astype(np.float64) / total)


def min_p(scores: Float32, shares: Float32) -> Float32:
    """Drop tokens less likely than this share of the most likely one. Source: Nguyen et al., 2024."""
    for row, share in zip(scores, shares, strict=True):
        likely = weights(row)
        if likely is not None:
            _remove(row, likely < share)  # the most likely one weighs 1
    return scores


def typical_p(scores: Float32, masses: Float64) -> Float32:
    """Keep the tokens whose surprise is nearest the expected one, up to the mass. Source: Meister et al., 2022."""
    for row, mass in zip(scores, masses.tolist(), strict=True):
        likely = weights(row)
        if likely is None:
            continue
        total = likely.sum()
        surprises = np.log(total) - (row - row.max())
        likely /= total
        # A removed token has an infinite surprise and no weight, and contributes nothing.
        entropy = (np.minimum(surprises, np.float32(UNHEARD_OF)) * likely).sum()
        distances = np.abs(surprises - entropy)
        for count in (NEAREST, 8 * NEAREST, len(row)):
            ids = np.flatnonzero(distances <= -reached(-distances, count)) if count < len(row) else np.arange(len(row))
            order = ids[np.argsort(distances[ids], kind="stable")]
            sums = np.cumsum(likely[order].astype(np.float64))
            if sums[-1] >= mass:
                break
        last = min(int((sums < mass).sum()), len(order) - 1)
        _remove(row, distances > distances[order[last]])
    return scores


def _remove(scores: Float32, gone: Bool) -> None:
    """Remove tokens; shapes are the same."""
    # The lesser of a score and +-inf: unlike an assignment where a mask says so, no branch that has to be guessed.
    np.minimum(scores, (np.float32(0.5) - gone) * np.float32(math.inf), out=scores)


def reached(row: Float32, count: int) -> float:
    """A score that at least `count` tokens of a row reach, and few more do, where as many are left; above -inf."""
    columns = max(COLUMNS, 2 * count)
    if len(row) >= 2 * columns:
        # The highest of each column are so many tokens: what `count` of them reach, `count` tokens reach.
        row = row[: len(row) // columns * columns].reshape(-1, columns).max(axis=0)
    # Sorted, not partitioned: that takes many times longer where most are equal, that is, removed.
    return max(float(np.sort(row)[-min(count, len(row))]), LOWEST)


def weights(row: Float32) -> Float32 | None:
    """A row's softmax before it is divided by its sum, the highest being 1; None where it is no distribution.

    Shapes: row [vocab]; returns [vocab].
    """
    highest = row.max()
    if not np.isfinite(highest):
        return None
    shifted: Float32 = row - highest
    return np.exp(shifted, out=shifted)


def logprobs_of(scores: Float32, token_ids: Int32) -> Float32:
    """Natural log-probability of one token of each row: token_ids [rows] -> [rows]; NaN in no distribution."""
    logprobs = np.full(len(scores), np.nan, np.float32)
    for entry, (row, token_id) in enumerate(zip(scores, token_ids.tolist(), strict=True)):
        likely = weights(row)
        if likely is not None:
            # Shifted as the weights are: the logarithm of the sum is then small, and keeps its digits.
            logprobs[entry] = float(row[token_id] - row.max()) - math.log(float(likely.sum()))
    return logprobs
