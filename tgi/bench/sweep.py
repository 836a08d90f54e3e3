"""Finds where a server saturates, then how its latency grows on the way there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tgi.bench.results import Load, Step
from tgi.bench.workload import CONCURRENCY, POISSON

GAIN = 1.05  # throughput that twice the streams must bring at least to go on
MOST_FAILURES = 0.05
RATES = (0.25, 0.5, 0.75, 0.9)  # of the highest request rate seen, offered as Poisson processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Closed loops of 1, 2, 4, ... streams until throughput stops growing, then open loops below the best rate."""

    prompt_tokens: int
    output_tokens: int
    shared_prefix_tokens: int = 0
    requests: int | None = None  # a step; by default four a stream, sixteen at least
    duration_s: float | None = None
    most_streams: int = 256

    def known(self) -> tuple[Load, ...]:
        """The loads that are certain to be run."""
        return (self._closed(1),)

    def loads(self, steps: Callable[[], Sequence[Step]]) -> Iterator[Load]:
        """Loads one after another; each looks at the steps that are done. Ends early where everything fails."""
        streams, best = 1, 0.0
        while streams <= self.most_streams:
            yield self._closed(streams)
            if not steps():
                return
            summary = steps()[-1].summary
            if summary.failed > MOST_FAILURES * summary.requests:
                break
            if summary.output_token_rate < GAIN * best:
                break
            best, streams = summary.output_token_rate, 2 * streams
        highest = max((step.summary.request_rate for step in steps()), default=0.0)
        if highest > 0:
            for share in RATES:
                yield self._open(share * highest)

    def _closed(self, streams: int) -> Load:
        requests = self.requests
        if requests is None and self.duration_s is None:
            requests = max(16, 4 * streams)
        return Load(
            kind=CONCURRENCY, label=streams_label(streams), concurrency=streams, requests=requests,
            duration_s=self.duration_s, prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens,
            shared_prefix_tokens=self.shared_prefix_tokens,
        )  # fmt: skip

    def _open(self, rate: float) -> Load:
        duration_s = self.duration_s if self.duration_s is not None else None if self.requests else max(20.0, 10 / rate)
        return Load(
            kind=POISSON, label=rate_label(rate), rate=rate, requests=self.requests, duration_s=duration_s,
            prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens,
            shared_prefix_tokens=self.shared_prefix_tokens,
        )  # fmt: skip


def streams_label(streams: int) -> str:
    """The name of a closed loop."""
    return "1 stream" if streams == 1 else f"{streams} streams"


def rate_label(rate: float) -> str:
    """The name of an open loop."""
    return f"{rate:.3g} req/s"
