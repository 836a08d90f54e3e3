"""Steps, recorded once for each kind and replayed in one native call."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.model import CausalLM
from tgi.runner.plan import StepPlan

MAX_ROWS = 128
"""Requests that decode in a step; one of more computes for so long that what a recording saves does not count."""

MAX_TOKENS = 1024
"""Tokens of a step with a prompt; likewise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a forward pass leaves, until the next one."""

    hidden: Array  # [L, hidden] final states of the tokens that need logits
    likeliest: tuple[Array, Array] | None = None  # [T] as of `kernels.greedy`; None: not computed here


@dataclass(frozen=True, slots=True)
class Kind:
    """What steps have in common that one recording serves."""

    decode: bool  # every request computes one token; then hidden states of all are left
    wanted: bool  # a token needs logits
    likeliest: bool  # the likeliest next tokens are computed as well


@dataclass(frozen=True, slots=True)
class _Graph:
    recording: kernels.Recording
    inputs: ForwardBatch  # what the recorded calls read, for the largest step
    outcome: Outcome


class GraphRunner:
    """Runs a model's forward pass; steps that are not too large are replayed."""

    def __init__(self, model: CausalLM, caches: list[KVCache], *, max_blocks: int, max_tokens: int) -> None:
        """`max_blocks`: blocks of the longest request; `max_tokens`: of the largest step."""
        self._model = model
        self._caches = caches
        self._max_blocks = max_blocks
        self._max_tokens = min(max_tokens, MAX_TOKENS)
        self._graphs: dict[Kind, _Graph] = {}
        self._refused = False  # the model computes something beside the kernels

    def forward(self, plan: StepPlan, *, likeliest: bool) -> Outcome:
        """Compute the step's tokens, and the likeliest next ones where all is asked of is one for each: `likeliest`.

        Raises: ValueError when the step names a token, a slot or a block that does not exist.
        """
        tokens, rows, wanted = len(plan.input_ids), len(plan.context_lens), len(plan.logits_indices)
        decode = tokens == rows
        kind = Kind(decode, decode or wanted > 0, likeliest and decode)
        graph = self._graph(kind) if self._fits(plan, tokens) else None
        if graph is None:
            return Outcome(self._model.forward(_batch(plan), self._caches))
        _fill(graph.inputs, plan)
        sizes = {"tokens": tokens} if decode else {"tokens": tokens, "rows": rows, "wanted": wanted}
        graph.recording.replay(**sizes)
        return _left(graph.outcome, plan, decode)

    def _fits(self, plan: StepPlan, tokens: int) -> bool:
        most = MAX_ROWS if tokens == len(plan.context_lens) else self._max_tokens
        return 0 < tokens <= most and plan.block_tables.shape[1] <= self._max_blocks

    def _graph(self, kind: Kind) -> _Graph | None:
        if self._refused or kind in self._graphs:
            return self._graphs.get(kind)
        # Recorded for the largest step. Its sizes differ from one another: that is how they are told apart.
        tokens = MAX_ROWS if kind.decode else self._max_tokens
        sizes = {"tokens": tokens}
        if not kind.decode:
            sizes |= {"rows": tokens + 1, "wanted": tokens + 2 if kind.wanted else 0}
        inputs = _largest(**sizes, blocks=self._max_blocks)
        arrays = (getattr(inputs, name) for name in _NAMES)
        recorder = kernels.record([array for array in arrays if array is not None], **sizes)
        self._refused = recorder is None
        if recorder is None:
            return None
        with recorder as recording, np.errstate(all="ignore"):  # what lies in results while nothing is computed
            hidden = self._model.forward(inputs, self._caches)
            # The logits are not kept: their memory, the largest of a step, serves every recording.
            outcome = Outcome(hidden, kernels.greedy(self._model.logits(hidden)) if kind.likeliest else None)
        self._refused = not recording.complete
        if recording.complete:
            self._graphs[kind] = _Graph(recording, inputs, outcome)
        return self._graphs.get(kind)


_NAMES = tuple(field.name for field in fields(ForwardBatch))


def _largest(*, tokens: int, blocks: int, rows: int | None = None, wanted: int | None = None) -> ForwardBatch:
    rows = tokens if rows is None else rows
    return ForwardBatch(
        input_ids=np.zeros(tokens, np.int32),
        positions=np.zeros(tokens, np.int32),
        slot_mapping=np.zeros(tokens, np.int64),
        query_starts=np.zeros(rows + 1, np.int32),
        context_lens=np.zeros(rows, np.int32),
        block_tables=np.zeros((rows, blocks), np.int32),
        rope_variants=np.zeros(rows, np.int32),
        logits_indices=None if wanted is None else np.zeros(wanted, np.int32),
    )


def _batch(plan: StepPlan) -> ForwardBatch:
    values = {name: getattr(plan, name) for name in _NAMES}
    if len(plan.logits_indices) == len(plan.input_ids):
        values["logits_indices"] = None
    return ForwardBatch(**values)


def _left(outcome: Outcome, plan: StepPlan, decode: bool) -> Outcome:
    """What a replay left of a step. Of a decode step it is all tokens: whether one needs logits differs."""
    tokens, wanted = len(plan.input_ids), len(plan.logits_indices)
    if outcome.likeliest is not None:
        token_ids, logprobs = outcome.likeliest
        return Outcome(outcome.hidden[:tokens], (token_ids[:tokens], logprobs[:tokens]))
    hidden = outcome.hidden[plan.logits_indices] if decode and wanted < tokens else outcome.hidden[:wanted]
    return Outcome(hidden)


def _fill(inputs: ForwardBatch, plan: StepPlan) -> None:
    for name in _NAMES:
        target, source = getattr(inputs, name), getattr(plan, name)
        if target is None:
            continue
        if target.ndim == 2:
            target[: source.shape[0], : source.shape[1]] = source
            continue
        target[: len(source)] = source
        # Rotations are looked up for every place: those behind the step's are of no request, or of the last.
        target[len(source) :] = 0
    inputs.query_starts[len(plan.query_starts) :] = len(inputs.input_ids)
