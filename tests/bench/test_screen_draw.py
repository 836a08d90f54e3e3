"""The picture fits every size, and says what the results say."""

from __future__ import annotations

import pytest

from tests.bench.example_results import TARGET, preset_run, run, step
from tgi.bench.events import Plan
from tgi.bench.results import Run
from tgi.bench.screen_charts import amount
from tgi.bench.screen_draw import draw
from tgi.bench.screen_state import State


def finished(shown: Run, *, until: int = 99) -> State:
    """The state after a run, or before step `until` ends."""
    state = State()
    state.begin(Plan(targets=shown.targets, loads=tuple(step.load for step in shown.steps), title="Model: m"))
    for index, done in enumerate(shown.steps[: until + 1]):
        state.begin_step(index, done.load, done.target)
        for trace in done.traces:
            state.steps[index].add(trace)
        for sample in done.samples:
            state.steps[index].add_sample(sample)
        if index != until:
            state.steps[index].result = done
    return state


def text(state: State, width: int, height: int) -> str:
    return "\n".join("".join(row) for row in draw(state, width, height)._characters)


@pytest.mark.parametrize("shown", [run(), preset_run()], ids=["streams", "batch"])
def test_every_size_is_filled_and_never_overrun(shown: Run) -> None:
    state = finished(shown)
    for width in range(60, 200, 7):
        for height in range(20, 60, 5):
            rows = text(state, width, height).split("\n")
            assert [len(row) for row in rows] == [width] * height
            assert rows[-1].startswith("╰")


def test_a_done_step_shows_the_exact_figures_of_its_result() -> None:
    state = finished(run())
    state.tab = 1
    summary = run().steps[1].summary
    screen = text(state, 120, 40)
    for found in (summary.ttft_ms, summary.itl_ms, summary.e2e_ms):
        assert found is not None
        for value in (found.mean, found.min, found.max, found.p50, found.p90, found.p99):
            assert amount(value) in screen
    assert amount(summary.output_token_rate) in screen


def test_a_running_step_shows_the_servers_gauges_and_a_done_one_what_the_server_measured() -> None:
    running, done = text(finished(run(), until=3), 160, 50), text(finished(run()), 160, 50)
    assert "server batch current size" in running
    assert "○4" in running
    assert "server request inference mean" in done
    assert "410.0 ms" in done


def test_before_the_first_step_and_without_figures_the_screen_says_so() -> None:
    assert "waiting for the first step" in text(State(), 80, 24)
    state = State()
    state.begin(Plan(targets=(TARGET,), loads=(step(1).load,), title="t"))
    assert "no value yet" in text(state, 80, 24)


def test_many_tabs_keep_the_shown_one_in_sight() -> None:
    state = State()
    state.begin(Plan(targets=(TARGET,), loads=tuple(step(n).load for n in range(1, 30)), title="t"))
    for tab in (0, 14, 28):
        state.tab = tab
        assert f"· {state.steps[tab].load.label} " in text(state, 80, 24).split("\n")[1]
