"""What a benchmark tells while it runs, and the one thing it can be told: to stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from tgi.bench.results import Load, Run, Sample, Step, Target, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is about to happen."""

    targets: tuple[Target, ...]
    loads: tuple[Load, ...]  # each is a step for every target; a sweep finds more of them as it goes
    title: str  # `Model: X | Sequence Length: N | Decode Length: N`
    open_ended: bool = False  # a sweep: more steps may follow those of `loads`


class Observer(Protocol):
    """Hears of everything as it happens. Calls come from the event loop and must return at once.

    Steps are named by their index in `Run.steps`. Comparisons run two steps at once, one a target.
    """

    def run_started(self, plan: Plan) -> None:
        """Before the first request."""

    def step_started(self, step: int, load: Load, target: int) -> None:
        """Before a step's warm-up; of a sweep also its first news of a load that `Plan.loads` lacked."""

    def request_finished(self, step: int, trace: Trace) -> None:
        """A request ended, well or badly. Those with `trace.warmup` will not count."""

    def sample(self, step: int, sample: Sample) -> None:
        """The state of things, about four times a second."""

    def step_finished(self, step: int, result: Step) -> None:
        """After a step's last answer."""

    def run_finished(self, run: Run) -> None:
        """After everything; also when it was interrupted."""


class Silent:
    """An observer that does nothing; also a base for those that want to hear of some things only."""

    def run_started(self, plan: Plan) -> None:
        """Nothing."""

    def step_started(self, step: int, load: Load, target: int) -> None:
        """Nothing."""

    def request_finished(self, step: int, trace: Trace) -> None:
        """Nothing."""

    def sample(self, step: int, sample: Sample) -> None:
        """Nothing."""

    def step_finished(self, step: int, result: Step) -> None:
        """Nothing."""

    def run_finished(self, run: Run) -> None:
        """Nothing."""


@dataclass(slots=True)
class Control:
    """How a screen, or a signal, ends a run early: what is under way is cut off, what was measured is kept.

    `stop()` is for the event loop's thread; elsewhere go through `loop.call_soon_threadsafe`.
    """

    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """End the run as soon as possible; the second call changes nothing."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether someone asked for the end."""
        return self._stopped.is_set()

    async def wait(self) -> None:
        """Until someone asks for the end."""
        await self._stopped.wait()
