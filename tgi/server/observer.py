"""What the engine's supervisor tells whoever keeps count of it."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.engine.messages import StepStats


class Observer:
    """Hears of an engine's steps, and of its end. This one ignores everything; `Metrics` does not."""

    def step(self, stats: StepStats, dispatch_s: float) -> None:
        """The engine made a step, and its tokens were handed out in `dispatch_s` seconds."""

    def idle(self, free_blocks: int) -> None:
        """Aborts left the engine with nothing to do, or it has just begun."""

    def refuse(self, count: int, reason: str, methods: Sequence[str]) -> None:
        """The engine failed this many sequences, amid `methods`, and goes on."""

    def die(self, waiting: int, methods: Sequence[str]) -> None:
        """The engine is gone, amid `methods` if it ran anything; `waiting` sequences wait for its successor."""

    def restart(self, reason: str) -> None:
        """An engine is started because the last one ended for this reason."""

    def resume(self, gap_s: float) -> None:
        """A sequence got its first token from another engine than the one that died `gap_s` before."""
