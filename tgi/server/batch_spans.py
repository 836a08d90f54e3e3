"""A span for each batch: the sequences that run side by side, from the step in which one joins until the next joins.

Batches are roots, and no request's: the spans `infer` of the sequences that joined in one link to it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tgi.engine.messages import StepStats
from tgi.server.observer import Observer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

REMEMBERED = 1024  # batches that a sequence may have joined in


class _Batch(NamedTuple):
    stepped: float  # `time.monotonic()` when its first step was complete
    context: SpanContext


class BatchSpans(Observer):
    """Hears what another observer hears, and tells it everything.

    `begin` starts a root span called "batch" at a moment of `time.monotonic()`, and `finish` ends it.
    """

    def __init__(self, begin: Callable[[float], Span], finish: Callable[[Span], None], inner: Observer) -> None:
        self._begin = begin
        self._finish = finish
        self._inner = inner
        self._span: Span | None = None
        self._steps = self._tokens = 0
        self._known: deque[_Batch] = deque(maxlen=REMEMBERED)

    def joined(self, scheduled: float) -> SpanContext | None:
        """The batch in which a sequence joined that left the queue at a moment of `time.monotonic()`, if remembered."""
        index = bisect_left(self._known, scheduled, key=lambda batch: batch.stepped)
        return self._known[index].context if index < len(self._known) else None

    def step(self, stats: StepStats, dispatch_s: float) -> None:
        """Begin a batch when sequences joined; end it when none is left."""
        self._inner.step(stats, dispatch_s)
        if stats.started_ids or self._span is None:
            self.end()
            arrived = time.monotonic() - dispatch_s
            self._span = self._begin(arrived - stats.forward_s - stats.sample_s)
            self._span.set_attributes({"batch_size": max(stats.running, len(stats.started_ids))})
            self._known.append(_Batch(arrived, self._span.get_span_context()))
        self._steps += 1
        self._tokens += stats.prefill_tokens + stats.decode_tokens
        if not stats.running:
            self.end()

    def end(self, failed: str = "") -> None:
        """No sequence runs any more, or another one joins."""
        span, steps, tokens = self._span, self._steps, self._tokens
        self._span, self._steps, self._tokens = None, 0, 0
        if span is not None:
            span.set_attributes({"steps": steps, "tokens": tokens})
            if failed:
                span.set_attribute("error.type", failed)
            self._finish(span)

    def idle(self, free_blocks: int) -> None:
        """Aborts left nothing to run."""
        self._inner.idle(free_blocks)
        self.end()

    def refuse(self, count: int, reason: str, methods: Sequence[str]) -> None:
        """The engine failed this many sequences, amid `methods`, and goes on."""
        self._inner.refuse(count, reason, methods)

    def die(self, waiting: int, methods: Sequence[str]) -> None:
        """The engine is gone, and its batch with it."""
        self._inner.die(waiting, methods)
        self.end("engine_gone")

    def restart(self, reason: str) -> None:
        """An engine is started because the last one ended for this reason."""
        self._inner.restart(reason)

    def resume(self, gap_s: float) -> None:
        """A sequence got its first token from another engine than the one that died `gap_s` before."""
        self._inner.resume(gap_s)
