"""Decode steps, recorded once for each number of rows and replayed in one native call."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields, replace

import numpy as np

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.model import CausalLM
from tgi.runner.plan import StepPlan

MAX_GRAPHS = 128
"""Recordings kept, the least recently used dropped first; each takes about 50 KiB for a model of 30 layers."""

MAX_ROWS = 128
"""A step of more rows computes for so long that what a recording saves does not count."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a forward pass leaves, until the next one."""

    hidden: Array  # [L, hidden] final states of the tokens that need logits
    likeliest: tuple[Array, Array] | None = None  # [T] as of `kernels.greedy`; None: not computed here


@dataclass(frozen=True, slots=True)
class _Graph:
    recording: kernels.Recording
    inputs: tuple[Array, ...]  # what the recorded calls read, in the order of `_NAMES`
    outcome: Outcome


class GraphRunner:
    """Runs a model's forward pass; steps in which every request computes one token are replayed."""

    def __init__(self, model: CausalLM, caches: list[KVCache], *, max_blocks: int) -> None:
        """`max_blocks`: blocks of the longest request."""
        self._model = model
        self._caches = caches
        self._max_blocks = max_blocks
        self._graphs: OrderedDict[tuple[int, bool], _Graph] = OrderedDict()
        self._refused = False  # the model computes something beside the kernels

    def forward(self, plan: StepPlan, *, likeliest: bool) -> Outcome:
        """Compute the step's tokens, and the likeliest next ones where all is asked of is one for each: `likeliest`.

        Raises: ValueError when the step names a token, a slot or a block that does not exist.
        """
        rows = len(plan.context_lens)
        fits = 0 < rows <= MAX_ROWS and plan.block_tables.shape[1] <= self._max_blocks
        if self._refused or not fits or len(plan.input_ids) != rows:
            return Outcome(self._model.forward(_batch(plan), self._caches))
        kind = rows, likeliest
        graph = self._graphs.get(kind)
        if graph is None:
            return self._record(plan, kind)
        self._graphs.move_to_end(kind)
        _fill(graph.inputs, plan)
        graph.recording.replay()
        return _wanted(graph.outcome, plan)

    def _record(self, plan: StepPlan, kind: tuple[int, bool]) -> Outcome:
        rows, likeliest = kind
        batch = _batch(plan)
        inputs = ForwardBatch(**{name: np.zeros_like(getattr(batch, name)) for name in _NAMES} | {
            "block_tables": np.zeros((rows, self._max_blocks), np.int32),
            "logits_indices": None,
    })  # fmt: skip
        arrays = tuple(getattr(inputs, name) for name in _NAMES)
        _fill(arrays, plan)
        recorder = kernels.record(arrays)
        if recorder is None:
            self._refused = True
            return Outcome(self._model.forward(batch, self._caches))
        with recorder as recording:
            hidden = self._model.forward(inputs, self._caches)
            # The logits are not kept: their memory, the largest of a step, serves every recording.
            outcome = Outcome(hidden, kernels.greedy(self._model.logits(hidden)) if likeliest else None)
        self._refused = not recording.complete
        if recording.complete:
            self._graphs[kind] = _Graph(recording, arrays, outcome)
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        return _wanted(outcome, plan)


_NAMES = tuple(field.name for field in fields(ForwardBatch) if field.name != "logits_indices")


def _batch(plan: StepPlan) -> ForwardBatch:
    values = {field.name: getattr(plan, field.name) for field in fields(ForwardBatch)}
    if len(plan.logits_indices) == len(plan.input_ids):
        values["logits_indices"] = None
    return ForwardBatch(**values)


def _wanted(outcome: Outcome, plan: StepPlan) -> Outcome:
    """What a recording left, which is of all tokens: whether one needs logits differs from step to step."""
    if len(plan.logits_indices) == len(plan.input_ids):
        return outcome
    return replace(outcome, hidden=outcome.hidden[plan.logits_indices])


def _fill(inputs: tuple[Array, ...], plan: StepPlan) -> None:
    for name, target in zip(_NAMES, inputs, strict=True):
        source = getattr(plan, name)
        np.copyto(target if target.ndim == 1 else target[:, : source.shape[1]], source)
