"""Two servers, or the same twice: ratios, intervals and the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.bench import example_results
from tgi.bench.compare import RATE, TTFT, compare, merge, pair_steps, ratios_of, verdict
from tgi.bench.measure import summarise
from tgi.bench.results import Load, Run, Step, Trace
from tgi.errors import ConfigError

LOAD = Load(kind="concurrency", label="1 stream", concurrency=1, prompt_tokens=8, output_tokens=10)


def step(speed: float, *, seed: int = 0, target: int = 0, rounds: int = 8, load: Load = LOAD) -> Step:
    """Requests one after another, each about 1 s / `speed` long, in rounds of five."""
    chance = np.random.default_rng(seed)
    traces, ends, now = [], [], 0.0
    for _ in range(rounds):
        for _ in range(5):
            length = chance.uniform(0.8, 1.2) / speed
            times = tuple(now + length * (part + 1) / 10 for part in range(10))
            traces.append(Trace(number=len(traces), scheduled_s=now, sent_s=now, finished_s=now + length,
                                token_times_s=times, prompt_tokens=8, output_tokens=10, target=target))  # fmt: skip
            now += length
        ends.append(now)
    found = tuple(traces)
    return Step(load=load, started_at="", target=target, traces=found, round_ends_s=tuple(ends),
                summary=summarise(found))  # fmt: skip


def run(*steps: Step, targets: int = 1) -> Run:
    return replace(example_results.run(steps), targets=(example_results.TARGET,) * targets)


def test_a_server_twice_as_fast_is_better_in_everything() -> None:
    found = compare(run(step(1.0), step(2.0, seed=1, target=1), targets=2))
    assert {ratio.better for ratio in found.comparison} == {"B"}
    rate = next(ratio for ratio in found.comparison if ratio.metric == RATE)
    ttft = next(ratio for ratio in found.comparison if ratio.metric == TTFT)
    assert rate.low < 2 < rate.high
    assert rate.ratio == pytest.approx(2, rel=0.1)
    assert ttft.ratio == pytest.approx(0.5, rel=0.1)
    assert found.verdict is not None
    assert found.verdict.startswith("B is better in 4 of 4 figures; B has ")


def test_a_server_compared_with_itself_is_as_good() -> None:
    found = compare(run(step(1.0), step(1.0, target=1), targets=2))
    assert {ratio.better for ratio in found.comparison} == {None}
    assert all(ratio.low <= 1 <= ratio.high for ratio in found.comparison)
    assert found.verdict is not None
    assert found.verdict.startswith("no difference shown: all 4 intervals contain 1")


def test_the_true_ratio_is_within_the_interval_about_as_often_as_promised() -> None:
    hits = 0
    for seed in range(40):
        ratios = ratios_of(step(1.0, seed=2 * seed), step(1.1, seed=2 * seed + 1, target=1), seed)
        rate = next(ratio for ratio in ratios if ratio.metric == RATE)
        hits += rate.low <= 1.1 <= rate.high
    assert hits >= 33


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = step(1.0), step(1.1, seed=1)
    assert ratios_of(a, b, 5) == ratios_of(a, b, 5)


def test_a_minute_that_was_bad_for_both_does_not_widen_the_interval() -> None:
    def slow_second_half(found: Step) -> Step:
        half = len(found.traces) // 2
        shifted, now = [], 0.0
        for number, trace in enumerate(found.traces):
            factor = 3.0 if number >= half else 1.0
            length = (trace.finished_s - trace.sent_s) * factor
            times = tuple(now + length * (part + 1) / 10 for part in range(10))
            shifted.append(replace(trace, scheduled_s=now, sent_s=now, finished_s=now + length, token_times_s=times))
            now += length
        traces = tuple(shifted)
        ends = tuple(traces[5 * number + 4].finished_s for number in range(len(traces) // 5))
        return replace(found, traces=traces, round_ends_s=ends, summary=summarise(traces))

    a, b = slow_second_half(step(1.0)), slow_second_half(step(1.2, seed=1))
    paired = next(ratio for ratio in ratios_of(a, b, 0) if ratio.metric == RATE)
    alone = next(
        ratio
        for ratio in ratios_of(replace(a, round_ends_s=()), replace(b, round_ends_s=()), 0)
        if ratio.metric == RATE
    )
    assert paired.better == "B"
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_saved_results_are_compared_where_their_loads_are_the_same() -> None:
    other = replace(LOAD, label="2 streams", concurrency=2)
    merged = merge(run(step(1.0), step(1.0, load=other)), run(step(2.0, seed=1)))
    assert {ratio.load for ratio in merged.comparison} == {"1 stream"}
    assert [found.target for found in merged.steps] == [0, 0, 1]
    assert all(trace.target == 1 for trace in merged.steps[2].traces)
    assert len(merged.targets) == 2


def test_results_without_a_common_load_are_refused() -> None:
    with pytest.raises(ConfigError, match="no load in common: 1 stream of 8"):
        merge(run(step(1.0)), run(step(1.0, load=replace(LOAD, prompt_tokens=9))))


def test_a_comparison_is_not_compared_again() -> None:
    both = run(step(1.0), step(1.0, target=1), targets=2)
    with pytest.raises(ConfigError, match="cannot be compared again"):
        merge(both, run(step(1.0)))


def test_other_machines_are_noted() -> None:
    elsewhere = replace(run(step(1.0)), machine=replace(example_results.MACHINE, cpu="another"))
    assert "different machines" in " ".join(merge(run(step(1.0)), elsewhere).notes)


def test_steps_without_successful_requests_have_no_ratio() -> None:
    failed = step(1.0)
    traces = tuple(replace(trace, error="timeout") for trace in failed.traces)
    failed = replace(failed, traces=traces, summary=summarise(traces))
    assert ratios_of(step(1.0), failed, 0) == []
    assert verdict([]).startswith("no verdict")
    assert len(pair_steps([failed], [failed])) == 1


def test_few_rounds_are_not_resampled_and_few_units_widen_the_interval() -> None:
    three, twelve = (
        next(ratio for ratio in ratios_of(step(1.0, rounds=n), step(1.0, seed=1, rounds=n), 0) if ratio.metric == RATE)
        for n in (3, 12)
    )
    assert three.high - three.low > twelve.high - twelve.low
    whole = step(1.0, rounds=3)
    assert ratios_of(whole, whole, 0) == ratios_of(replace(whole, round_ends_s=()), replace(whole, round_ends_s=()), 0)
