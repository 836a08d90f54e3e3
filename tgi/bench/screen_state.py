"""What the live screen knows: running tallies of every load step, and what the user asked to see."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from tgi.bench.events import Plan
from tgi.bench.measure import batch_run, e2e_s, gaps_s, ttft_s
from tgi.bench.results import BatchRun, Load, Sample, Step, Trace

ZOOMS = (100.0, 99.0, 95.0, 90.0, 75.0, 50.0)  # percentile at the right edge of histograms
RATES = 240  # samples kept for the line of throughput: a minute
_FINENESS = 250.0  # buckets by which a value grows e-fold: 0.4 % each


class Tally:
    """Many values in little room: counts in buckets that are 0.4 % wide, so percentiles are that exact."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0

    def add(self, value: float) -> None:
        """Count one value; negative ones count as 0."""
        value = max(0.0, value)
        self.counts[round(math.log(value) * _FINENESS) if value > 1e-9 else _ZERO] += 1
        self.count += 1
        self.total += value
        self.low = min(self.low, value)
        self.high = max(self.high, value)

    @property
    def mean(self) -> float:
        """The average; 0 without values."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The value that `percent` of the values do not exceed; 0 without values."""
        if percent >= 100:
            return self.high
        left = math.ceil(self.count * percent / 100)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return min(self.high, max(self.low, _value(bucket)))
        return self.high

    def bins(self, number: int, low: float, high: float) -> list[int]:
        """Counts of values in `number` equal parts from `low` to `high`; values outside are left out."""
        found = [0] * number
        width = (high - low) / number or 1.0
        for bucket, count in self.counts.items():
            value = min(self.high, max(self.low, _value(bucket)))
            if low <= value <= high:
                found[min(number - 1, int((value - low) / width))] += count
        return found


_ZERO = round(math.log(1e-9) * _FINENESS)


def _value(bucket: int) -> float:
    return 0.0 if bucket == _ZERO else math.exp(bucket / _FINENESS)


@dataclass(slots=True)
class StepView:
    """One load step, in milliseconds and tokens a second. Keys of `tallies` are the titles of panels."""

    load: Load
    target: int = 0
    started: bool = False
    result: Step | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    completed: int = 0
    failed: int = 0
    warming: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    sample: Sample | None = None
    rates: list[float] = field(default_factory=list)  # tokens a second between samples
    _batch: list[Trace] = field(default_factory=list)

    @property
    def is_batch(self) -> bool:
        """Whether this is a step of TGI's method, which has panels of its own."""
        return self.load.kind == "batch"

    def tally(self, name: str) -> Tally:
        """The tally of that name."""
        return self.tallies.setdefault(name, Tally())

    def add(self, trace: Trace) -> None:
        """Count a request that ended."""
        if trace.warmup:
            self.warming += 1
            return
        if trace.error is not None:
            self.failed += 1
            self.errors[trace.error] += 1
        else:
            self.completed += 1
        if self.is_batch:
            self._batch.append(trace)
            if len(self._batch) >= (self.load.concurrency or 1):
                if (run := batch_run(self._batch)) is not None:
                    self._add_batch(run)
                self._batch = []
        elif trace.error is None:
            first = ttft_s(trace)
            if first is not None:
                self.tally("TTFT").add(first * 1000)
            for gap in gaps_s(trace):
                self.tally("Inter-token").add(gap * 1000)
            self.tally("End to end").add(e2e_s(trace) * 1000)

    def _add_batch(self, run: BatchRun) -> None:
        size, steps = self.load.concurrency or 1, max(1, (self.load.output_tokens or 2) - 1)
        self.tally("Prefill Latency").add(run.prefill_s * 1000)
        self.tally("Decode Total Latency").add(run.decode_s * 1000)
        self.tally("Decode Token Latency").add(run.decode_s * 1000 / steps)
        if run.prefill_s > 0:
            self.tally("Prefill Throughput").add(size * (self.load.prompt_tokens or 0) / run.prefill_s)
        if run.decode_s > 0:
            self.tally("Decode Throughput").add(size * steps / run.decode_s)

    def add_sample(self, sample: Sample) -> None:
        """Note the state of things, and the throughput since the last one."""
        before = self.sample
        if before is not None and sample.at_s > before.at_s:
            self.rates.append((sample.output_tokens - before.output_tokens) / (sample.at_s - before.at_s))
            del self.rates[:-RATES]
        self.sample = sample

    @property
    def token_rate(self) -> float:
        """Generated tokens a second: the result's once there is one, until then those of the samples."""
        if self.result is not None:
            return self.result.summary.output_token_rate
        sample = self.sample
        return sample.output_tokens / sample.at_s if sample is not None and sample.at_s > 0 else 0.0

    def progress(self) -> tuple[float, str]:
        """The share that is done, from 0 to 1, and words for it."""
        done = self.completed + self.failed
        if self.is_batch and self.load.runs:
            size = self.load.concurrency or 1
            runs = self.load.runs if self.result else min(self.load.runs, done // size)
            return runs / self.load.runs, f"{runs}/{self.load.runs} runs"
        at = self.sample.at_s if self.sample else 0.0
        if self.load.requests:
            share, words = done / self.load.requests, f"{done}/{self.load.requests} requests"
        elif self.load.duration_s:
            share, words = at / self.load.duration_s, f"{at:.0f}/{self.load.duration_s:.0f} s, {done} requests"
        else:
            share, words = 0.0, f"{done} requests"
        if self.result is None and self.warming and not done:
            words = f"warming up, {self.warming} requests"
        return (1.0 if self.result else min(1.0, share)), words


@dataclass(slots=True)
class State:
    """Everything that is drawn."""

    plan: Plan | None = None
    steps: dict[int, StepView] = field(default_factory=dict)
    tab: int = 0
    touched: bool = False  # the user chose a tab: it no longer follows the progress
    zoom: int = 0
    paused: bool = False
    over: bool = False
    interrupted: bool = False

    def begin(self, plan: Plan) -> None:
        """Before the first request. With one target the steps to come have their tabs already."""
        self.plan = plan
        if len(plan.targets) == 1:
            self.steps = {index: StepView(load) for index, load in enumerate(plan.loads)}

    def begin_step(self, index: int, load: Load, target: int) -> None:
        """A step begins; its tab is shown, unless the user looks at another."""
        self.steps[index] = StepView(load, target, started=True)
        if not self.touched:
            self.tab = index

    def press(self, key: str) -> bool:
        """One key. Returns: whether it asks to leave."""
        tabs = sorted(self.steps)
        place = tabs.index(self.tab) if self.tab in tabs else 0
        if key in ("right", "tab") and tabs:
            self.tab, self.touched = tabs[(place + 1) % len(tabs)], True
        elif key == "left" and tabs:
            self.tab, self.touched = tabs[(place - 1) % len(tabs)], True
        elif key in ("+", "="):
            self.zoom = min(self.zoom + 1, len(ZOOMS) - 1)
        elif key in ("-", "_"):
            self.zoom = max(self.zoom - 1, 0)
        elif key == "p":
            self.paused = not self.paused
        return key in ("q", "Q", "ctrl-c")

    def label(self, step: StepView) -> str:
        """The words of a tab."""
        several = self.plan is not None and len(self.plan.targets) > 1
        return step.load.label + (f" {'AB'[step.target] if step.target < 2 else step.target}" if several else "")

    def total(self) -> tuple[float, str, bool]:
        """The share of steps that are done, words for it, and whether anything failed."""
        done = sum(step.result is not None for step in self.steps.values())
        planned = len(self.plan.loads) * len(self.plan.targets) if self.plan else 0
        planned = max(planned, len(self.steps), 1)
        part = sum(step.progress()[0] for step in self.steps.values() if step.result is None)
        open_ended = self.plan is not None and self.plan.open_ended and not self.over
        words = f"{done} steps, more may follow" if open_ended else f"{done}/{planned} steps"
        failed = any(step.failed for step in self.steps.values())
        return (1.0 if self.over and not self.interrupted else min(1.0, (done + part) / planned)), words, failed
