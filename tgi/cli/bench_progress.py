"""A benchmark in plain lines on stderr, where there is no terminal to draw on."""

from __future__ import annotations

import sys

from tgi.bench.events import Plan, Silent
from tgi.bench.results import Load, Sample, Step, Trace
from tgi.log import escape

SILENCE_S = 10.0


class Lines(Silent):
    """What begins, what came out of it, the first failure of each kind; long steps also say how far they are."""

    def __init__(self) -> None:
        self._targets = 1
        self._steps = 0  # planned; 0 where that is not known
        self._told_s: dict[int, float] = {}
        self._labels: dict[int, str] = {}
        self._errors: set[str] = set()

    def run_started(self, plan: Plan) -> None:
        """What is measured."""
        self._targets = len(plan.targets)
        self._steps = 0 if plan.open_ended else len(plan.loads) * self._targets
        for target in plan.targets:
            self._tell(f"measuring {target.model.id} at {target.url} ({target.server}, {target.protocol})")

    def step_started(self, step: int, load: Load, target: int) -> None:
        """Its name."""
        self._labels[step] = (f"{'AB'[target]}: " if self._targets > 1 else "") + load.label
        self._told_s[step] = 0.0
        self._tell(f"step {step + 1}{f' of {self._steps}' if self._steps else ''}: {self._labels[step]}")

    def request_finished(self, step: int, trace: Trace) -> None:
        """Why a request failed, once for each kind."""
        if trace.error is not None and trace.error not in self._errors:
            self._errors.add(trace.error)
            self._tell(f"  a request failed, {trace.error}: {trace.message}")

    def sample(self, step: int, sample: Sample) -> None:
        """A line every ten seconds, so that nothing long is silent."""
        if sample.at_s - self._told_s[step] >= SILENCE_S:
            self._told_s[step] = sample.at_s
            self._tell(
                f"  {self._labels[step]}: {sample.at_s:.0f} s, {sample.completed} requests done, "
                f"{sample.in_flight} under way"
            )

    def step_finished(self, step: int, result: Step) -> None:
        """The step's figures."""
        found = result.summary
        words = [
            f"{found.completed} requests in {found.duration_s:.1f} s",
            f"{found.output_token_rate:.1f} output tokens/s",
        ]
        if found.ttft_ms is not None:
            words.append(f"TTFT p50 {found.ttft_ms.p50:.0f} ms")
        if found.itl_ms is not None:
            words.append(f"inter-token p50 {found.itl_ms.p50:.1f} ms")
        if found.failed:
            words.append(f"{found.failed} failed")
        self._tell(f"  {self._labels[step]}: {', '.join(words)}")

    def _tell(self, line: str) -> None:
        print(escape(line), file=sys.stderr, flush=True)
