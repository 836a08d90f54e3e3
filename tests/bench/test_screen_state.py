"""Tallies are as exact as they say, and tabs follow the progress until the user touches them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from tests.bench.example_results import TARGET, batch_step, run, step, traces
from tgi.bench.events import Plan
from tgi.bench.results import Load, Sample
from tgi.bench.screen_state import State, StepView, Tally


def test_percentiles_of_a_tally_are_within_half_a_percent() -> None:
    chance = random.Random(0)
    values = [chance.lognormvariate(3, 1) for _ in range(5000)]
    tally = Tally()
    for value in values:
        tally.add(value)
    for percent in (0, 50, 90, 99, 100):
        exact = float(np.percentile(values, percent, method="inverted_cdf"))
        assert tally.percentile(percent) == pytest.approx(exact, rel=0.005)
    assert tally.mean == pytest.approx(sum(values) / len(values))
    assert (tally.low, tally.high) == (min(values), max(values))
    assert sum(tally.bins(40, tally.low, tally.high)) == len(values)


def test_a_tally_of_nothing_and_of_zeros_is_zero() -> None:
    tally = Tally()
    assert (tally.mean, tally.percentile(50)) == (0.0, 0.0)
    tally.add(0.0)
    tally.add(-1.0)
    assert (tally.percentile(99), tally.bins(3, 0.0, 1.0)) == (0.0, [2, 0, 0])


def test_a_step_tallies_what_its_summary_says() -> None:
    done = step(4)
    view = StepView(done.load)
    for trace in done.traces:
        view.add(trace)
    view.add(replace(done.traces[0], warmup=True))
    assert (view.completed, view.failed) == (done.summary.completed, done.summary.failed)
    assert dict(view.errors) == dict(done.summary.errors)
    for name, exact in (
        ("TTFT", done.summary.ttft_ms), ("Inter-token", done.summary.itl_ms), ("End to end", done.summary.e2e_ms)
    ):  # fmt: skip
        assert exact is not None
        tally = view.tallies[name]
        assert (tally.count, tally.low) == (exact.count, pytest.approx(exact.min))
        assert tally.mean == pytest.approx(exact.mean)
        assert tally.percentile(50) == pytest.approx(exact.p50, rel=0.02)


def test_a_batch_step_tallies_tgis_figures() -> None:
    done = batch_step(4)
    view = StepView(done.load)
    for trace in done.traces:
        view.add(trace)
    assert done.batch is not None
    for name, exact in (
        ("Prefill Latency", done.batch.prefill_ms), ("Prefill Throughput", done.batch.prefill_rate),
        ("Decode Total Latency", done.batch.decode_total_ms), ("Decode Token Latency", done.batch.decode_token_ms),
        ("Decode Throughput", done.batch.decode_rate),
    ):  # fmt: skip
        assert view.tallies[name].count == exact.count == 10
        assert view.tallies[name].mean == pytest.approx(exact.mean)
    assert view.progress() == (1.0, "10/10 runs")


def test_progress_goes_by_requests_or_by_time() -> None:
    view = StepView(Load(kind="concurrency", label="x", requests=40))
    assert view.progress() == (0.0, "0/40 requests")
    view.add(replace(traces(1)[0], warmup=True))
    assert view.progress() == (0.0, "warming up, 1 requests")
    view.add(traces(1)[0])
    assert view.progress() == (1 / 40, "1/40 requests")
    timed = StepView(Load(kind="poisson", label="x", duration_s=10.0))
    timed.add_sample(Sample(at_s=5.0, in_flight=1, completed=0, failed=0, output_tokens=0))
    assert timed.progress() == (0.5, "5/10 s, 0 requests")


def state() -> State:
    found = State()
    loads = tuple(step.load for step in run().steps)
    found.begin(Plan(targets=(TARGET,), loads=loads, title="title"))
    return found


def test_tabs_follow_the_progress_until_they_are_touched() -> None:
    found = state()
    found.begin_step(0, found.steps[0].load, 0)
    found.begin_step(1, found.steps[1].load, 0)
    assert found.tab == 1
    found.press("left")
    assert found.tab == 0
    found.begin_step(2, found.steps[2].load, 0)
    assert found.tab == 0
    found.press("left")  # around the corner
    assert found.tab == 3
    found.press("tab")
    assert found.tab == 0


def test_only_q_and_ctrl_c_ask_to_leave() -> None:
    assert [key for key in ("right", "tab", "x", "+", "-", "p", "q", "ctrl-c") if state().press(key)] == ["q", "ctrl-c"]


def test_a_sweep_has_no_total_until_it_is_over() -> None:
    found = State()
    found.begin(Plan(targets=(TARGET,), loads=(step(1).load,), title="t", open_ended=True))
    found.begin_step(0, step(1).load, 0)
    found.steps[0].result = step(1)
    found.begin_step(1, step(2).load, 0)
    assert found.total()[1] == "1 steps, more may follow"
    found.steps[1].result, found.over = step(2), True
    assert found.total() == (1.0, "2/2 steps", False)


def test_steps_of_a_comparison_name_their_target() -> None:
    found = State()
    found.begin(Plan(targets=(TARGET, TARGET), loads=(step(1).load,), title="t"))
    found.begin_step(0, step(1).load, 0)
    found.begin_step(1, step(1).load, 1)
    assert [found.label(view) for view in found.steps.values()] == ["1 stream A", "1 stream B"]
    assert found.total()[1] == "0/2 steps"
