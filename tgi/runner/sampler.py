"""Chooses tokens. A choice is a pure function of a row's logits and its request; the batch never shows in it.

Per-row state exists only to spare recomputation: all of it is rebuilt from `RowState`, when a request takes its row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from tgi import kernels
from tgi.runner import logits as processors
from tgi.runner.grammar import GrammarFactory
from tgi.runner.logits import Bool
from tgi.runner.noise import uniform
from tgi.runner.plan import Float32, Int32, RowState
from tgi.runner.row import SamplingRow
from tgi.sampling import NOT_NUMBERS, TopTokens

log = logging.getLogger("tgi.runner.sampler")

NOTHING_LEFT = "the request's constraints leave no token to choose"
GRAMMAR_FAILED = "the grammar could not be followed"
MASK_THREADS = 4
STRETCH = 128  # tokens whose probabilities `draw` adds up at once


@dataclass(slots=True)
class Choice:
    """What was chosen, one entry a logits row."""

    token_ids: Int32  # [entries]
    logprobs: Float32  # [entries] after processors
    top: dict[int, TopTokens] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)  # entry -> reason; its token means nothing


class Sampler:
    """Rows of sampling state, and the choice of their next tokens."""

    def __init__(self, vocab_size: int, grammars: GrammarFactory | None = None) -> None:
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._rows: dict[int, SamplingRow] = {}
        self._asking: set[int] = set()  # rows that want more than the most likely token
        self._threads = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="grammar")  # started when first used
        self._masks: dict[int, Future[Bool]] = {}

    def begin(self, states: Iterable[RowState]) -> None:
        """Build the state of requests that take a row."""
        for state in states:
            row = self._rows[state.row] = SamplingRow.build(state, self._vocab_size, self._grammars)
            if not row.plain:
                self._asking.add(state.row)

    def end(self, rows: Iterable[int]) -> None:
        """Forget rows; one that never began is no error, for the step that began it may have failed."""
        for row in rows:
            self._rows.pop(row, None)
            self._asking.discard(row)
            self._masks.pop(row, None)

    def prepare_masks(self, rows: Iterable[int]) -> None:
        """Begin to find out what the grammars of rows allow, in threads; `sample` waits for the answers."""
        for row in self._asking.intersection(rows):
            grammar = self._rows[row].grammar
            if grammar is not None and row not in self._masks:
                self._masks[row] = self._threads.submit(grammar.allowed)

    def sample(self, logits: Float32, rows: Sequence[int]) -> Choice:
        """Choose the next token of each row, and take it into account.

        A row whose logits hold a NaN or +inf, or nothing but -inf, is reported in `failed` and chooses nothing; so is
        one whose grammar fails. Shapes: logits [entries, vocab] float32, which may be changed; rows [entries].
        """
        return self._chosen(logits, rows) if self.asks(rows) else self.likeliest(*kernels.greedy(logits))

    def asks(self, rows: Iterable[int]) -> bool:
        """Whether any of these rows wants more than the most likely token."""
        return not self._asking.isdisjoint(rows)

    @np.errstate(all="ignore")  # infinities are met on purpose, and NaN is reported by row
    def _chosen(self, logits: Float32, rows: Sequence[int]) -> Choice:
        """The choice of rows of which some want more."""
        states = [self._rows[row] for row in rows]
        choice = Choice(np.zeros(len(rows), dtype=np.int32), np.full(len(rows), np.nan, dtype=np.float32))
        noise = iter(_noise([state for state in states if state.params.do_sample]))
        self.prepare_masks(rows)
        # One row at a time: a row's arrays fit into the processor's cache, and rows cannot reach each other.
        for entry, state in enumerate(states):
            scores = logits[entry : entry + 1]
            allowed = self._allowed(rows[entry], entry, choice) if state.grammar is not None else None
            state.process(scores, allowed)
            if state.params.do_sample:
                choice.token_ids[entry], choice.logprobs[entry] = draw(scores[0], next(noise))
        greedy = [entry for entry, state in enumerate(states) if not state.params.do_sample]
        if greedy:
            chosen = kernels.greedy(logits if len(greedy) == len(states) else logits[greedy])
            choice.token_ids[greedy], choice.logprobs[greedy] = chosen
        self._take(logits, states, choice)
        return choice

    @staticmethod
    def likeliest(token_ids: Int32, logprobs: Float32) -> Choice:
        """The choice of rows that ask for nothing, and so remember nothing of it, from what `kernels.greedy` gave."""
        choice = Choice(token_ids.copy(), logprobs.copy())  # a replay writes into what was recorded
        for entry, logprob in enumerate(logprobs.tolist()):
            if math.isnan(logprob):
                choice.token_ids[entry], choice.failed[entry] = 0, NOT_NUMBERS
        return choice

    @np.errstate(all="ignore")
    def score(self, logits: Float32, rows: Sequence[int], token_ids: Int32) -> Choice:
        """Report what the model thinks of tokens that are given: those of prompts. Nothing is processed or remembered.

        Shapes: logits [entries, vocab] float32; rows, token_ids [entries].
        """
        logprobs = processors.logprobs_of(logits, token_ids)
        choice = Choice(token_ids, logprobs)
        for entry, row in enumerate(rows):
            count, token_id, logprob = self._rows[row].top_tokens, int(token_ids[entry]), float(logprobs[entry])
            if math.isnan(logprob):
                choice.failed[entry] = NOT_NUMBERS
            elif count:
                choice.top[entry] = top_tokens(logits[entry], count, token_id, logprob)
        return choice

    def _allowed(self, row: int, entry: int, choice: Choice) -> Bool | None:
        """What the row's grammar allows; None, and the entry in `choice.failed`, when it cannot tell."""
        try:
            return self._masks.pop(row).result()
        except Exception as error:  # whatever a grammar breaks, it breaks for its own request
            log.warning("%s: %s", GRAMMAR_FAILED, error)
            choice.failed[entry] = GRAMMAR_FAILED
            return None

    @staticmethod
    def _take(scores: Float32, states: list[SamplingRow], choice: Choice) -> None:
        """Report rows without a choice, and the most likely tokens of the others; remember what was chosen."""
        for entry, state in enumerate(states):
            token_id, logprob = int(choice.token_ids[entry]), float(choice.logprobs[entry])
            if math.isnan(logprob):
                ruled_out = state.constrained and bool((scores[entry] == processors.REMOVED).all())
                choice.failed.setdefault(entry, NOTHING_LEFT if ruled_out else NOT_NUMBERS)
            if entry in choice.failed:
                choice.token_ids[entry] = 0
                continue
            if state.top_tokens:
                choice.top[entry] = top_tokens(scores[entry], state.top_tokens, token_id, logprob)
            state.append(token_id)


def _noise(states: Sequence[SamplingRow]) -> list[float]:
    """What decides the next draw of each row."""
    if not states:
        return []
    noise: list[float] = uniform(
        [state.params.seed for state in states],
        [state.params.sequence_index for state in states],
        [state.length for state in states],
    ).tolist()
    return noise


def draw(scores: Float32, noise: float) -> tuple[int, float]:
    """The token where the running sum of probabilities, in token order, first exceeds the noise; its log-probability.

    A token of probability zero adds nothing to the sum, so it is never the first. The log-probability is NaN when the
    scores are no distribution. Shapes: scores [vocab]; `noise` in [0, 1).
    """
    likely = processors.weights(scores)
    if likely is None:
        return 0, math.nan
    # Summed up by stretches, then within the one where the noise falls.
    starts = np.arange(0, len(likely), STRETCH)
    sums = np.cumsum(np.add.reduceat(likely, starts, dtype=np.float64))
    total = float(sums[-1])
    target = noise * total
    stretch = int(np.searchsorted(sums, target, side="right"))
    start = int(starts[stretch])
    before = float(sums[stretch - 1]) if stretch else 0.0
    inside = np.cumsum(np.concatenate(([before], likely[start : start + STRETCH])))[1:]
    offset = int(np.searchsorted(inside, target, side="right"))
    if offset == len(inside):  # added up in another order, the last bit may differ: its last likely token, then
        offset = int(np.flatnonzero(likely[start : start + STRETCH])[-1])
    token_id = start + offset
    return token_id, math.log(float(likely[token_id]) / total)


def top_tokens(scores: Float32, count: int, token_id: int, logprob: float) -> TopTokens:
    """The `count` most likely tokens, and those that tie with the last, as TGI reports them; removed ones never.

    Log-probabilities follow from the chosen token's, so that it has the same one in both places.
    Shapes: scores [vocab].
    """
    ids = np.flatnonzero(scores >= processors.reached(scores, count))
    values = scores[ids].astype(np.float64)
    order = np.lexsort((ids, -values))
    if len(order) > count:
        order = order[: int(np.searchsorted(-values[order], -values[order[count - 1]], side="right"))]
    logprobs = logprob + (values[order] - float(scores[token_id]))
    return TopTokens(ids[order].astype("<i4").tobytes(), logprobs.astype("<f4").tobytes())
