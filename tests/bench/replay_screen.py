"""A program that shows the example of a benchmark on the live screen: what the pseudo-terminal tests run.

`python -m tests.bench.replay_screen KIND`, KIND one of `streams`, `batch`, `busy` (the last step never ends), `failing`
(an exception in the middle), `broken` (the screen itself fails).
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace

from tests.bench.example_results import play, preset_run, run
from tgi.bench.events import Control, Plan, Silent
from tgi.bench.results import Run, Step
from tgi.bench.screen import Screen


class _Unfinished(Silent):
    """Passes on everything but the end of the last step and of the run."""

    def __init__(self, screen: Screen, steps: int) -> None:
        self.run_started, self.step_started = screen.run_started, screen.step_started  # type: ignore[method-assign]
        self.request_finished, self.sample = screen.request_finished, screen.sample  # type: ignore[method-assign]
        self._screen = screen
        self._last = steps - 1

    def step_finished(self, step: int, result: Step) -> None:
        """All but the last."""
        if step != self._last:
            self._screen.step_finished(step, result)


async def _show(kind: str) -> Run:
    shown = preset_run() if kind == "batch" else run()
    control = Control()
    with Screen(control, keys=0, output=1, colour="NO_COLOR" not in os.environ) as screen:
        if kind == "broken":
            screen.run_started(Plan(targets=(), loads=(), title="broken"))
            screen.step_finished(7, shown.steps[0])
        elif kind in ("busy", "failing"):
            play(_Unfinished(screen, len(shown.steps)), shown)
            if kind == "failing":
                await asyncio.sleep(0.5)
                raise SystemExit("the run failed")
            await control.wait()
            shown = replace(shown, interrupted=True)
        else:
            play(screen, shown)
        await screen.left()
    print(f"frames {screen.frames} draw_s {screen.draw_s:.6f}")
    return shown


if __name__ == "__main__":
    asyncio.run(_show(sys.argv[1]))
    print("the tables follow")
