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
    plain: bool  # argmax of the raw logits

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
        changed = [entry for entry, state in enumerate(states) if not state.plain]
        if changed:
            scores = self._process(logits[changed], [states[entry] for entry in changed])
            logits[changed] = scores
        self._choose(logits, states, choice)
        for entry, state in enumerate(states):
            if math.isnan(choice.logprobs[entry]):
                choice.failed[entry] = NOT_NUMBERS
                choice.token_ids[entry] = 0
                continue
            token_id = int(choice.token_ids[entry])
            if state.top_tokens:
                choice.top[entry] = _top_tokens(
                    logits[entry], state.top_tokens, token_id, float(choice.logprobs[entry])
                )
            state.append(token_id)
        return choice

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
        plain = not (params.do_sample or any(needed(params) for needed, _ in _PROCESSORS))
        return _Row(params, state.top_tokens, length, seen, counts, plain)

    def _known(self, token_ids: Int32) -> Tensor:
        """Ids that have a logit: an embedding may know more tokens than the head scores."""
        return torch.from_numpy(token_ids[token_ids < self._vocab_size].astype(np.int64))

    @staticmethod
    def _process(scores: Tensor, states: list[_Row]) -> Tensor:
        """Apply to each row the processors its request asks for, in TGI's order."""
        for needed, apply in _PROCESSORS:
            entries = [entry for entry, state in enumerate(states) if needed(state.params)]
            if len(entries) == len(states):
                scores = apply(scores, states)
            elif entries:
                scores[entries] = apply(scores[entries], [states[entry] for entry in entries])
        return scores

    @staticmethod
    def _choose(scores: Tensor, states: list[_Row], choice: Choice) -> None:
        sampled = [entry for entry, state in enumerate(states) if state.params.do_sample]
        greedy = [entry for entry, state in enumerate(states) if not state.params.do_sample]
        if greedy:
            token_ids, logprobs = kernels.greedy(scores if not sampled else scores[greedy])
            choice.token_ids[greedy] = token_ids.numpy()
            choice.logprobs[greedy] = logprobs.numpy()
        if sampled:
            params = [states[entry].params for entry in sampled]
            noise = uniform(
                [one.seed for one in params],
                [one.sequence_index for one in params],
                [states[entry].length for entry in sampled],
            )
            token_ids, logprobs = _draw(scores if not greedy else scores[sampled], torch.from_numpy(noise))
            choice.token_ids[sampled] = token_ids.numpy()
            choice.logprobs[sampled] = logprobs.numpy()


def _draw(scores: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The token where the running sum of probabilities, in token order, first exceeds the noise.

    A token of probability zero adds nothing to the sum, so it is never the first. Shapes: scores [rows, vocab],
    noise [rows] float64 in [0, 1); returns token ids [rows] int64 and log-probabilities [rows] float64, NaN where a
    row holds no distribution.
    """
    probabilities = torch.softmax(scores, dim=-1)
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    totals = sums[:, -1]
    token_ids = torch.searchsorted(sums, (noise * totals)[:, None], right=True)
    token_ids.clamp_(max=scores.shape[-1] - 1)  # only a NaN row can need it
    chosen = probabilities.gather(-1, token_ids)[:, 0].tolist()
    # One number at a time: a vectorised logarithm may round its remainder elements otherwise.
    logprobs = [
        math.log(one / total) if total > 0 and one > 0 else math.nan
        for one, total in zip(chosen, totals.tolist(), strict=True)
    ]
    return token_ids[:, 0], torch.tensor(logprobs, dtype=torch.float64)


def _top_tokens(scores: Tensor, count: int, token_id: int, logprob: float) -> TopTokens:
    """The `count` most likely tokens, and those that tie with the last, as TGI reports them; removed ones never.

    Log-probabilities follow from the chosen token's, so that it has the same one in both places.
    """
    edge = torch.topk(scores, min(count, scores.shape[-1])).values[-1]
    ids = torch.nonzero((scores >= edge) & (scores > processors.REMOVED)).view(-1)
    values = scores[ids].double().numpy()
    order = np.lexsort((ids.numpy(), -values))
    logprobs = logprob + (values[order] - float(scores[token_id]))
    return TopTokens(ids.numpy()[order].astype("<i4").tobytes(), logprobs.astype("<f4").tobytes())


def _column(states: list[_Row], name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([getattr(state.params, name) for state in states], dtype=dtype)


def _stack(rows: Iterable[Tensor | None]) -> Tensor:
    return torch.stack([row for row in rows if row is not None])


# In TGI's order: penalties and bias first, then what reshapes the distribution, then what cuts it.
_PROCESSORS: tuple[tuple[Callable[[SamplingParams], bool], Callable[[Tensor, list[_Row]], Tensor]], ...] = (
    (
        lambda params: params.repetition_penalty != 1.0,
        lambda scores, states: processors.repetition_penalty(
            scores, _stack(state.seen for state in states), _column(states, "repetition_penalty")
        ),
    ),
    (
        lambda params: params.frequency_penalty != 0.0,
        lambda scores, states: processors.frequency_penalty(
            scores, _stack(state.counts for state in states), _column(states, "frequency_penalty")
        ),
    ),
    (
        lambda params: params.presence_penalty != 0.0,
        lambda scores, states: processors.presence_penalty(
            scores, _stack(state.counts for state in states), _column(states, "presence_penalty")
        ),
    ),
    (
        lambda params: bool(params.logit_bias),
        lambda scores, states: processors.logit_bias(scores, [state.params.logit_bias for state in states]),
    ),
    (
        lambda params: params.temperature != 1.0,
        lambda scores, states: processors.temperature(scores, _column(states, "temperature")),
    ),
    (
        lambda params: params.top_k > 0,
        lambda scores, states: processors.top_k(scores, _column(states, "top_k", torch.int64)),
    ),
    (
        lambda params: params.top_p < 1.0,
        lambda scores, states: processors.top_p(scores, _column(states, "top_p", torch.float64)),
    ),
    (
        lambda params: params.min_p > 0.0,
        lambda scores, states: processors.min_p(scores, _column(states, "min_p")),
    ),
    (
        lambda params: params.typical_p < 1.0,
        lambda scores, states: processors.typical_p(scores, _column(states, "typical_p", torch.float64)),
    ),
)
