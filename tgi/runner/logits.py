"""Logits processors: each changes rows of scores by parameters of each row, and no row's result depends on another's.

Results are those of transformers' processors and warpers of the same name, row by row; where two tokens tie at the
edge of `top_p`, both stay, for a sort must not choose between them. To keep rows independent to the last bit, only two
kinds of operations are used: those that round each element exactly (so vector width cannot matter), and torch's
softmax and running sums, which walk each row from its own start.

Shapes everywhere: scores [rows, vocab] float32, changed in place and returned; parameters [rows].
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tgi.runner.plan import Int32
from tgi.runner.watermark import seed_after

REMOVED = float("-inf")
NEAREST = 512  # tokens `typical_p` looks at before it sorts the vocabulary


def repetition_penalty(scores: Tensor, seen: Tensor, penalties: Tensor) -> Tensor:
    """Divide positive scores of seen tokens by the penalty, multiply negative ones. `seen`: [rows, vocab] bool.

    Source: CTRL (Keskar et al., 2019), as transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    penalty = penalties[:, None]
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    return scores.copy_(torch.where(seen, penalised, scores))


def frequency_penalty(scores: Tensor, counts: Tensor, penalties: Tensor) -> Tensor:
    """Subtract the penalty once for each time a token was generated. `counts`: [rows, vocab] float32."""
    return scores.sub_(counts * penalties[:, None])


def presence_penalty(scores: Tensor, counts: Tensor, penalties: Tensor) -> Tensor:
    """Subtract the penalty from every token that was generated. `counts`: [rows, vocab] float32."""
    return scores.sub_((counts > 0) * penalties[:, None])


def logit_bias(scores: Tensor, biases: Sequence[Mapping[int, float]]) -> Tensor:
    """Add to the scores of single tokens. Ids outside the vocabulary mean nothing, and change nothing."""
    vocab = scores.shape[-1]
    for row, bias in zip(scores, biases, strict=True):
        known = {token_id: value for token_id, value in bias.items() if 0 <= token_id < vocab}
        ids = torch.tensor(list(known), dtype=torch.int64)
        row[ids] += torch.tensor(list(known.values()), dtype=torch.float32)
    return scores


def watermark(scores: Tensor, green: Tensor, deltas: Tensor) -> Tensor:
    """Favour green tokens. `green`: [rows, vocab] bool, from `green_tokens`.

    Source: Kirchenbauer et al., 2023, algorithm 2, as TGI's and transformers' `WatermarkLogitsProcessor`.
    """
    return scores.add_(green * deltas[:, None])


@functools.lru_cache(maxsize=64)
def green_tokens(previous: int, vocab: int, gamma: float) -> Tensor:
    """Which tokens are green after a token: [vocab] bool, not to be changed. See `tgi.runner.watermark`."""
    generator = torch.Generator().manual_seed(seed_after(previous))
    green = torch.zeros(vocab, dtype=torch.bool)
    green[torch.randperm(vocab, generator=generator)[: int(vocab * gamma)]] = True
    return green


def no_repeat_ngram(scores: Tensor, histories: Sequence[Int32], sizes: Sequence[int]) -> Tensor:
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
        completing = history[ends].astype(np.int64)
        row[torch.from_numpy(completing[completing < vocab])] = REMOVED
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


def bad_words(scores: Tensor, histories: Sequence[Int32], words: Sequence[BadWords]) -> Tensor:
    """Remove the tokens that would complete a bad word.

    As transformers' `NoBadWordsLogitsProcessor`. Shapes: one history, [tokens] ids, a row.
    """
    for row, history, of_row in zip(scores, histories, words, strict=True):
        row[torch.tensor(of_row.completing(history), dtype=torch.int64)] = REMOVED
    return scores


def only(scores: Tensor, allowed: Tensor) -> Tensor:
    """Remove everything that is not allowed. `allowed`: [rows, vocab] bool."""
    return scores.masked_fill_(~allowed, REMOVED)


def unpack_bits(bitmask: Int32, vocab: int) -> Tensor:
    """What a grammar allows, as `only` takes it: bit t % 32 of word t // 32 stands for token t.

    Shapes: bitmask [rows, ceil(vocab / 32)] int32; returns [rows, vocab] bool.
    """
    return torch.from_numpy(
        np.unpackbits(bitmask.view(np.uint8), axis=-1, count=vocab, bitorder="little").view(np.bool_)
    )


def withhold(scores: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    """Remove tokens from each row, unless that would leave it nothing: ending is better than failing.

    As transformers' `MinNewTokensLengthLogitsProcessor`, but for its rows that have nothing left.
    """
    for row, of_row in zip(scores, ids, strict=True):
        index = torch.tensor(of_row, dtype=torch.int64)
        before = row[index]
        row[index] = REMOVED
        if float(row.amax()) == REMOVED:
            row[index] = before
    return scores


def temperature(scores: Tensor, temperatures: Tensor) -> Tensor:
    """Divide by the temperature, which is positive: above 1 flattens, below 1 sharpens."""
    return scores.div_(temperatures[:, None])


def top_k(scores: Tensor, counts: Tensor) -> Tensor:
    """Keep the `counts` (int64) highest scores of each row, and those that tie with the last of them."""
    counts = counts.clamp(max=scores.shape[-1])
    highest = torch.topk(scores, int(counts.max()), dim=-1).values
    return scores.masked_fill_(scores < highest.gather(-1, counts[:, None] - 1), REMOVED)


def top_p(scores: Tensor, masses: Tensor) -> Tensor:
    """Keep the fewest most likely tokens that reach the mass together (at least one). Source: Holtzman et al., 2019."""
    vocab = scores.shape[-1]
    probabilities = torch.softmax(scores, dim=-1)
    for row, likely, mass in zip(scores, probabilities, masses.tolist(), strict=True):
        # Tokens below this cannot be among the kept: all of them together weigh less than 1 - mass. So a few hundred
        # candidates are sorted instead of the vocabulary.
        candidates = torch.from_numpy(np.flatnonzero(likely.numpy() >= (1 - mass) / vocab))
        if len(candidates) == 0:
            continue  # NaN: the sampler reports the row
        weights = likely[candidates].sort(descending=True).values.double()
        kept = int(((weights.cumsum(0) - weights) < mass).sum())
        edge = row[candidates].sort(descending=True).values[max(kept, 1) - 1]
        row.masked_fill_(row < edge, REMOVED)
    return scores


def min_p(scores: Tensor, shares: Tensor) -> Tensor:
    """Drop tokens less likely than this share of the most likely one. Source: Nguyen et al., 2024."""
    probabilities = torch.softmax(scores, dim=-1)
    highest = probabilities.amax(dim=-1, keepdim=True)
    return scores.masked_fill_(probabilities < shares[:, None] * highest, REMOVED)


def typical_p(scores: Tensor, masses: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest the expected one, up to the mass. Source: Meister et al., 2022."""
    logprobs = torch.log_softmax(scores, dim=-1)
    probabilities = torch.softmax(scores, dim=-1)
    # A removed token has 0 * -inf = NaN here, and contributes nothing.
    contributions = (logprobs * probabilities).nan_to_num_(0.0)
    entropy = -contributions.cumsum(dim=-1, dtype=torch.float64)[:, -1:].float()
    distances = (-logprobs - entropy).abs()
    # The nearest tokens seldom number more than a few hundred; only a row that needs more is sorted as a whole.
    nearest, order = torch.topk(distances, min(NEAREST, scores.shape[-1]), largest=False, sorted=True)
    below = _below(probabilities, order, masses)
    if bool(below[:, -1].any()) and scores.shape[-1] > NEAREST:
        nearest, order = distances.sort(dim=-1)
        below = _below(probabilities, order, masses)
    last = below.sum(dim=-1, keepdim=True).clamp_(max=nearest.shape[-1] - 1)
    return scores.masked_fill_(distances > nearest.gather(-1, last), REMOVED)


def _below(probabilities: Tensor, order: Tensor, masses: Tensor) -> Tensor:
    """Where the tokens so far, in this order, still weigh less than the mass: [rows, tokens] bool."""
    return probabilities.gather(-1, order).cumsum(dim=-1, dtype=torch.float64) < masses[:, None]


def logprobs_of(scores: Tensor, token_ids: Tensor) -> Tensor:
    """Natural log-probability of one token of each row: token_ids [rows] int64 -> [rows]."""
    # Shifted first: the logarithm of the sum is then small, and keeps its digits when it is subtracted.
    shifted = scores - scores.amax(dim=-1, keepdim=True)
    return torch.log_softmax(shifted, dim=-1).gather(-1, token_ids[:, None])[:, 0]
