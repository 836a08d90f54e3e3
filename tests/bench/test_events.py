"""What observers hear, and the control that ends a run."""

from __future__ import annotations

import asyncio

from tests.bench import example_results
from tgi.bench.events import Control, Silent
from tgi.bench.results import Load, Step


async def test_stopping_wakes_whoever_waits_and_may_be_repeated() -> None:
    control = Control()
    waiting = asyncio.create_task(control.wait())
    await asyncio.sleep(0)
    assert not control.stopped
    assert not waiting.done()
    control.stop()
    control.stop()
    await waiting
    assert control.stopped


def test_an_observer_of_some_things_ignores_the_others() -> None:
    class Steps(Silent):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def step_started(self, step: int, load: Load, target: int) -> None:
            self.seen.append((load.label, step))

        def step_finished(self, step: int, result: Step) -> None:
            self.seen.append(("done", step))

    steps = Steps()
    run = example_results.play(steps)
    assert steps.seen[:2] == [("1 stream", 0), ("done", 0)]
    assert len(steps.seen) == 2 * len(run.steps)
