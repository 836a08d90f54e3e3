"""Forward passes of decode steps, recorded once for each number of rows and replayed in one native call."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields

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
class _Graph:
    recording: kernels.Recording
    inputs: tuple[Array, ...]  # what the recorded calls read, in the order of `_NAMES`
    hidden: Array  # [T, hidden] what they leave


class GraphRunner:
    """Runs a model's forward pass; steps in which every request computes one token are replayed."""

    def __init__(self, model: CausalLM, caches: list[KVCache], *, max_blocks: int) -> None:
        """`max_blocks`: blocks of the longest request."""
        self._model = model
        self._caches = caches
        self._max_blocks = max_blocks
        self._graphs: OrderedDict[int, _Graph] = OrderedDict()
        self._refused = False  # the model computes something beside the kernels

    def forward(self, plan: StepPlan) -> Array:
        """Final hidden states [T, hidden], which the next call may overwrite.

        Raises: ValueError when the step names a token, a slot or a block that does not exist.
        """
        rows = len(plan.context_lens)
        fits = 0 < rows <= MAX_ROWS and plan.block_tables.shape[1] <= self._max_blocks
        if self._refused or not fits or len(plan.input_ids) != rows:
            return self._model.forward(_batch(plan), self._caches)
        graph = self._graphs.get(rows)
        if graph is None:
            return self._record(plan, rows)
        self._graphs.move_to_end(rows)
        _fill(graph.inputs, plan)
        graph.recording.replay()
        return graph.hidden

    def _record(self, plan: StepPlan, rows: int) -> Array:
        batch = _batch(plan)
        inputs = ForwardBatch(**{name: np.zeros_like(getattr(batch, name)) for name in _NAMES} | {
            "block_tables": np.zeros((rows, self._max_blocks), np.int32),
            "logits_indices": np.empty(0, np.int32),
    })  # fmt: skip
        arrays = tuple(getattr(inputs, name) for name in _NAMES)
        _fill(arrays, plan)
        recorder = kernels.record(arrays)
        if recorder is None:
            self._refused = True
            return self._model.forward(batch, self._caches)
        with recorder as recording:
            hidden = self._model.forward(inputs, self._caches)
        self._refused = not recording.complete
        if recording.complete:
            self._graphs[rows] = _Graph(recording, arrays, hidden)
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        return hidden


_NAMES = tuple(field.name for field in fields(ForwardBatch) if field.name != "logits_indices")


def _batch(plan: StepPlan) -> ForwardBatch:
    return ForwardBatch(**{field.name: getattr(plan, field.name) for field in fields(ForwardBatch)})


def _fill(inputs: tuple[Array, ...], plan: StepPlan) -> None:
    for name, target in zip(_NAMES, inputs, strict=True):
        source = getattr(plan, name)
        np.copyto(target if target.ndim == 1 else target[:, : source.shape[1]], source)
