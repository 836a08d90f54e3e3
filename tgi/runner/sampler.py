"""Chooses tokens. A choice is a pure function of a row's logits and its request; the batch never shows in it.

Per-row state exists only to spare recomputation: all of it is rebuilt from `RowState`, when a request takes its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tgi import kernels
from tgi.runner import logits as processors
from tgi.runner.noise import uniform
from tgi.runner.plan import Float32, Int32, RowState
from tgi.sampling import SamplingParams, TopTokens

NOT_NUMBERS = "the model's logits are not numbers"


@dataclass(slots=True)
class _Row:
    """Sampling state of one running request."""

    params: SamplingParams
    top_tokens: int
    length: int  # tokens of prompt and output so far: the position of the next one
    seen: Tensor | None  # [vocab] bool, prompt and output tokens; kept only for a repetition penalty
    counts: Tensor | None  # [vocab] float32, output tokens; kept only for frequency and presence penalties

    def append(self, token_id: int) -> None:
        """Take a chosen token into account."""
        self.length += 1
        if self.seen is not None:
            self.seen[token_id] = True
        if self.counts is not None:
            self.counts[token_id] += 1


@dataclass(slots=True)
class Choice:
    """What was chosen, one entry a logits row."""

    token_ids: Int32  # [entries]
    logprobs: Float32  # [entries] after processors
    top: dict[int, TopTokens] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)  # entry -> reason; its token means nothing


class Sampler:
    """Rows of sampling state, and the choice of their next tokens."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, _Row] = {}

    def begin(self, states: Iterable[RowState]) -> None:
        """Build the state of requests that take a row."""
        for state in states:
            self._rows[state.row] = self._build(state)

    def end(self, rows: Iterable[int]) -> None:
        """Forget rows; one that never began is no error, for the step that began it may have failed."""
        for row in rows:
            self._rows.pop(row, None)

    def sample(self, logits: Tensor, rows: Sequence[int]) -> Choice:
        """Choose the next token of each row, and take it into account.

        A row whose logits hold a NaN or +inf, or nothing but -inf, is reported in `failed` and chooses nothing.
        Shapes: logits [entries, vocab] float32, which may be changed; rows [entries].
        """
        states = [self._rows[row] for row in rows]
        choice = Choice(np.zeros(len(rows), dtype=np.int32), np.full(len(rows), np.nan, dtype=np.float32))
        noise = uniform(
            [state.params.seed for state in states],
            [state.params.sequence_index for state in states],
            [state.length for state in states],
        )
        # One row at a time: a row's arrays fit into the processor's cache, and rows cannot reach each other.
        for entry, state in enumerate(states):
            scores = logits[entry : entry + 1]
            for needed, apply in _PROCESSORS:
                if needed(state.params):
                    apply(scores, state)
            if state.params.do_sample:
                choice.token_ids[entry], choice.logprobs[entry] = draw(scores[0], float(noise[entry]))
        greedy = [entry for entry, state in enumerate(states) if not state.params.do_sample]
        if greedy:
            token_ids, logprobs = kernels.greedy(logits if len(greedy) == len(states) else logits[greedy])
            choice.token_ids[greedy], choice.logprobs[greedy] = token_ids.numpy(), logprobs.numpy()
        self._take(logits, states, choice)
        return choice

    def score(self, logits: Tensor, rows: Sequence[int], token_ids: Int32) -> Choice:
        """Report what the model thinks of tokens that are given: those of prompts. Nothing is processed or remembered.

        Shapes: logits [entries, vocab] float32; rows, token_ids [entries].
        """
        logprobs = processors.logprobs_of(logits, torch.from_numpy(token_ids.astype(np.int64))).numpy()
        choice = Choice(token_ids, logprobs)
        for entry, row in enumerate(rows):
            count, token_id, logprob = self._rows[row].top_tokens, int(token_ids[entry]), float(logprobs[entry])
            if math.isnan(logprob):
                choice.failed[entry] = NOT_NUMBERS
            elif count:
                choice.top[entry] = top_tokens(logits[entry], count, token_id, logprob)
        return choice

    @staticmethod
    def _take(scores: Tensor, states: list[_Row], choice: Choice) -> None:
        """Report rows without a choice, and the most likely tokens of the others; remember what was chosen."""
        for entry, state in enumerate(states):
            token_id, logprob = int(choice.token_ids[entry]), float(choice.logprobs[entry])
            if math.isnan(logprob):
                choice.failed[entry] = NOT_NUMBERS
                choice.token_ids[entry] = 0
                continue
            if state.top_tokens:
                choice.top[entry] = top_tokens(scores[entry], state.top_tokens, token_id, logprob)
            state.append(token_id)

    def _build(self, state: RowState) -> _Row:
        params = state.sampling
        seen = counts = None
        if params.repetition_penalty != 1.0:
            seen = torch.zeros(self._vocab_size, dtype=torch.bool)
            seen[self._known(state.prompt_ids)] = True
            seen[self._known(state.output_ids)] = True
        if params.frequency_penalty or params.presence_penalty:
            counts = torch.bincount(self._known(state.output_ids), minlength=self._vocab_size).float()
        length = len(state.prompt_ids) + len(state.output_ids)
        return _Row(params, state.top_tokens, length, seen, counts)

    def _known(self, token_ids: Int32) -> Tensor:
        """Ids that have a logit: an embedding may know more tokens than the head scores."""
        return torch.from_numpy(token_ids[token_ids < self._vocab_size].astype(np.int64))


def draw(scores: Tensor, noise: float) -> tuple[int, float]:
    """The token where the running sum of probabilities, in token order, first exceeds the noise; its log-probability.

    A token of probability zero adds nothing to the sum, so it is never the first. The log-probability is NaN when the
    scores are no distribution. Shapes: scores [vocab]; `noise` in [0, 1).
    """
    probabilities = torch.softmax(scores, dim=-1)
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64).numpy()
    total = float(sums[-1])
    if not total > 0:
        return 0, math.nan
    token_id = int(np.searchsorted(sums, noise * total, side="right"))
    return token_id, math.log(float(probabilities[token_id]) / total)


def top_tokens(scores: Tensor, count: int, token_id: int, logprob: float) -> TopTokens:
    """The `count` most likely tokens, and those that tie with the last, as TGI reports them; removed ones never.

    Log-probabilities follow from the chosen token's, so that it has the same one in both places.
    Shapes: scores [vocab].
    """
    edge = torch.topk(scores, min(count, scores.shape[-1])).values[-1]
    ids = torch.nonzero((scores >= edge) & (scores > processors.REMOVED)).view(-1)
    values = scores[ids].double().numpy()
    order = np.lexsort((ids.numpy(), -values))
    logprobs = logprob + (values[order] - float(scores[token_id]))
    return TopTokens(ids.numpy()[order].astype("<i4").tobytes(), logprobs.astype("<f4").tobytes())


def _one(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([value], dtype=dtype)


def _repetition_penalty(scores: Tensor, row: _Row) -> None:
    if row.seen is not None:
        processors.repetition_penalty(scores, row.seen[None], _one(row.params.repetition_penalty))


def _frequency_penalty(scores: Tensor, row: _Row) -> None:
    if row.counts is not None:
        processors.frequency_penalty(scores, row.counts[None], _one(row.params.frequency_penalty))


def _presence_penalty(scores: Tensor, row: _Row) -> None:
    if row.counts is not None:
        processors.presence_penalty(scores, row.counts[None], _one(row.params.presence_penalty))


# In TGI's order: penalties and bias first, then what reshapes the distribution, then what cuts it.
_PROCESSORS: tuple[tuple[Callable[[SamplingParams], bool], Callable[[Tensor, _Row], object]], ...] = (
    (lambda params: params.repetition_penalty != 1.0, _repetition_penalty),
    (lambda params: params.frequency_penalty != 0.0, _frequency_penalty),
    (lambda params: params.presence_penalty != 0.0, _presence_penalty),
    (
        lambda params: bool(params.logit_bias),
        lambda scores, row: processors.logit_bias(scores, [row.params.logit_bias]),
    ),
    (
        lambda params: params.temperature != 1.0,
        lambda scores, row: processors.temperature(scores, _one(row.params.temperature)),
    ),
    (
        lambda params: params.top_k > 0,
        lambda scores, row: processors.top_k(scores, _one(row.params.top_k, torch.int64)),
    ),
    (
        lambda params: params.top_p < 1.0,
        lambda scores, row: processors.top_p(scores, _one(row.params.top_p, torch.float64)),
    ),
    (lambda params: params.min_p > 0.0, lambda scores, row: processors.min_p(scores, _one(row.params.min_p))),
    (
        lambda params: params.typical_p < 1.0,
        lambda scores, row: processors.typical_p(scores, _one(row.params.typical_p, torch.float64)),
    ),
)
