"""What the sampler keeps of one running request, and the processors that the request asks for.

All of it is rebuilt from a `RowState`, so a request goes on after a preemption or a restart as if there had been none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tgi.runner import logits as processors
from tgi.runner.grammar import GrammarFactory, RowGrammar
from tgi.runner.logits import Bool
from tgi.runner.plan import Float32, Int32, Int64, RowState
from tgi.runner.watermark import green_tokens
from tgi.sampling import SamplingParams


class History:
    """A row's tokens, prompt and output, in an array that grows."""

    def __init__(self, state: RowState) -> None:
        self._length = len(state.prompt_ids) + len(state.output_ids)
        self._ids = np.concatenate((state.prompt_ids, state.output_ids, np.zeros(64, np.int32)))

    @property
    def ids(self) -> Int32:
        """All tokens so far; a view, valid until the next `append`."""
        return self._ids[: self._length]

    def append(self, token_id: int) -> None:
        """Add a token."""
        if self._length == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
        self._ids[self._length] = token_id
        self._length += 1


@dataclass(slots=True)
class SamplingRow:
    """Sampling state of one running request; optional parts exist only for parameters that need them."""

    params: SamplingParams
    top_tokens: int
    length: int  # tokens of prompt and output so far: the position of the next one
    free_from: int  # from this position on nothing is withheld
    withheld: tuple[int, ...]
    seen: Bool | None = None  # [vocab] bool, prompt and output tokens, for a repetition penalty
    counts: Float32 | None = None  # [vocab] float32, output tokens, for frequency and presence penalties
    history: History | None = None  # for a watermark, no_repeat_ngram_size and bad words
    bad_words: processors.BadWords | None = None
    allowed: Bool | None = None  # [vocab] bool
    grammar: RowGrammar | None = None
    steps: tuple[Callable[[Float32, SamplingRow], object], ...] = ()  # of `_ADJUSTING`, those the request asks for
    last_steps: tuple[Callable[[Float32, SamplingRow], object], ...] = ()  # of `_RESHAPING`

    @classmethod
    def build(cls, state: RowState, vocab_size: int, grammars: GrammarFactory | None) -> SamplingRow:
        """The state of a request that takes a row. Ids that have no logit mean nothing."""
        params = state.sampling
        start = len(state.prompt_ids)
        withheld = tuple(_known(params.withheld, vocab_size).tolist())
        row = cls(params, state.top_tokens, start + len(state.output_ids), start + params.min_tokens, withheld)
        row.steps = tuple(apply for needed, apply in _ADJUSTING if needed(params))
        row.last_steps = tuple(apply for needed, apply in _RESHAPING if needed(params))
        outputs = _known(state.output_ids, vocab_size)
        if params.repetition_penalty != 1.0:
            row.seen = _marked(vocab_size, _known(state.prompt_ids, vocab_size))
            row.seen[outputs] = True
        if params.frequency_penalty or params.presence_penalty:
            row.counts = np.bincount(outputs, minlength=vocab_size).astype(np.float32)
        if params.watermark_gamma or params.no_repeat_ngram_size or params.bad_words:
            row.history = History(state)
        if params.bad_words:
            words = (word for word in params.bad_words if word and max(word) < vocab_size)
            row.bad_words = processors.BadWords(words)
        if params.allowed_token_ids:
            row.allowed = _marked(vocab_size, _known(params.allowed_token_ids, vocab_size))
        if params.grammar:
            row.grammar = RowGrammar(grammars, state, vocab_size)
        return row

    @property
    def plain(self) -> bool:
        """Whether the request takes the most likely token, as the model has it, and asks for nothing beside it."""
        changes = (*self.steps, *self.last_steps, *self.withheld, self.allowed, self.grammar)
        return not self.params.do_sample and not self.top_tokens and all(change is None for change in changes)

    @property
    def constrained(self) -> bool:
        """Whether the request may rule out every token."""
        params = self.params
        return bool(params.no_repeat_ngram_size or params.bad_words or params.allowed_token_ids or params.grammar)

    def process(self, scores: Float32, allowed: Bool | None = None) -> None:
        """Apply the request's processors. Shapes: scores [1, vocab], changed; `allowed` by its grammar [1, vocab]."""
        for apply in self.steps:
            apply(scores, self)
        if self.allowed is not None:
            processors.only(scores, self.allowed[None])
        if allowed is not None:
            processors.only(scores, allowed)
        if self.length < self.free_from and self.withheld:
            processors.withhold(scores, [self.withheld])
        for apply in self.last_steps:
            apply(scores, self)

    def append(self, token_id: int) -> None:
        """Take a chosen token into account."""
        self.length += 1
        if self.seen is not None:
            self.seen[token_id] = True
        if self.counts is not None:
            self.counts[token_id] += 1
        if self.history is not None:
            self.history.append(token_id)
        if self.grammar is not None:
            self.grammar.append(token_id)


def _known(token_ids: Int32 | Iterable[int], vocab_size: int) -> Int64:
    """Ids that have a logit: an embedding may know more tokens than the head scores."""
    ids = np.asarray(token_ids, dtype=np.int64)
    return ids[(ids >= 0) & (ids < vocab_size)]


def _marked(vocab_size: int, ids: Int64) -> Bool:
    marks = np.zeros(vocab_size, np.bool_)
    marks[ids] = True
    return marks


def _one(value: float) -> Float32:
    return np.array([value], np.float32)


def _watermark(scores: Float32, row: SamplingRow) -> None:
    if row.history is not None:
        previous, gamma = int(row.history.ids[-1]), row.params.watermark_gamma
        green = green_tokens(previous, scores.shape[-1], gamma)
        processors.watermark(scores, green[None], _one(row.params.watermark_delta))


def _repetition_penalty(scores: Float32, row: SamplingRow) -> None:
    if row.seen is not None:
        processors.repetition_penalty(scores, row.seen[None], _one(row.params.repetition_penalty))


def _frequency_penalty(scores: Float32, row: SamplingRow) -> None:
    if row.counts is not None:
        processors.frequency_penalty(scores, row.counts[None], _one(row.params.frequency_penalty))


def _presence_penalty(scores: Float32, row: SamplingRow) -> None:
    if row.counts is not None:
        processors.presence_penalty(scores, row.counts[None], _one(row.params.presence_penalty))


def _no_repeat_ngram(scores: Float32, row: SamplingRow) -> None:
    if row.history is not None:
        processors.no_repeat_ngram(scores, [row.history.ids], [row.params.no_repeat_ngram_size])


def _bad_words(scores: Float32, row: SamplingRow) -> None:
    if row.history is not None and row.bad_words is not None:
        processors.bad_words(scores, [row.history.ids], [row.bad_words])


_Step = tuple[Callable[[SamplingParams], bool], Callable[[Float32, SamplingRow], object]]

# In TGI's order: watermark, penalties and bias first, then what rules tokens out, then what reshapes the distribution,
# then what cuts it.
_ADJUSTING: tuple[_Step, ...] = (
    (lambda params: params.watermark_gamma > 0.0, _watermark),
    (lambda params: params.repetition_penalty != 1.0, _repetition_penalty),
    (lambda params: params.frequency_penalty != 0.0, _frequency_penalty),
    (lambda params: params.presence_penalty != 0.0, _presence_penalty),
    (
        lambda params: bool(params.logit_bias),
        lambda scores, row: processors.logit_bias(scores, [row.params.logit_bias]),
    ),
    (lambda params: params.no_repeat_ngram_size > 0, _no_repeat_ngram),
    (lambda params: bool(params.bad_words), _bad_words),
)
_RESHAPING: tuple[_Step, ...] = (
    (
        lambda params: params.temperature != 1.0,
        lambda scores, row: processors.temperature(scores, _one(row.params.temperature)),
    ),
    (
        lambda params: params.top_k > 0,
        lambda scores, row: processors.top_k(scores, np.array([row.params.top_k], np.int64)),
    ),
    (
        lambda params: params.top_p < 1.0,
        lambda scores, row: processors.top_p(scores, np.array([row.params.top_p], np.float64)),
    ),
    (lambda params: params.min_p > 0.0, lambda scores, row: processors.min_p(scores, _one(row.params.min_p))),
    (
        lambda params: params.typical_p < 1.0,
        lambda scores, row: processors.typical_p(scores, np.array([row.params.typical_p], np.float64)),
    ),
)
