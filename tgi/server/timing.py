"""When the phases of a request began and ended, on the monotonic clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Timings:
    """Moments of one sequence, in seconds of `time.monotonic()`; 0 is "not yet"."""

    received: float = field(default_factory=time.monotonic)
    queued: float = 0.0  # given to the engine
    scheduled: float = 0.0  # left the engine's queue
    done: float = 0.0  # its last token arrived

    @property
    def total_s(self) -> float:
        """From receipt to the last token."""
        return self.done - self.received

    @property
    def validation_s(self) -> float:
        """From receipt to the queue."""
        return self.queued - self.received

    @property
    def queue_s(self) -> float:
        """In the engine's queue."""
        return self.scheduled - self.queued

    @property
    def inference_s(self) -> float:
        """From leaving the queue to the last token."""
        return self.done - self.scheduled

    def per_token_s(self, generated: int) -> float:
        """Inference time a generated token."""
        return self.inference_s / max(1, generated)


def words(seconds: float) -> str:
    """A duration for people: `2.5s`, `1.23ms`, `45.1µs`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.6g}{unit}"
    return f"{seconds * 1e6:.6g}µs"
