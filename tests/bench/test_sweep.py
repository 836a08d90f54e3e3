"""A sweep over servers of known capacity."""

from __future__ import annotations

from dataclasses import replace

from tests.bench import example_results
from tgi.bench.results import Load, Step
from tgi.bench.sweep import Sweep

SWEEP = Sweep(prompt_tokens=128, output_tokens=32)


def play(capacity: int, *, fails_from: int = 1000, sweep: Sweep = SWEEP) -> list[Load]:
    """The loads of a sweep over a server whose throughput grows up to `capacity` streams."""
    steps: list[Step] = []
    loads = []
    for load in sweep.loads(lambda: steps):
        loads.append(load)
        streams = load.concurrency or 1
        summary = replace(
            example_results.step(1).summary, requests=100, failed=10 if streams >= fails_from else 0,
            output_token_rate=10.0 * min(streams, capacity), request_rate=1.0 * min(streams, capacity),
        )  # fmt: skip
        steps.append(replace(example_results.step(1), load=load, summary=summary))
    return loads


def test_streams_double_until_throughput_stops_growing_then_rates_stay_below_it() -> None:
    loads = play(capacity=8)
    assert [load.concurrency for load in loads if load.kind == "concurrency"] == [1, 2, 4, 8, 16]
    assert [load.rate for load in loads if load.kind == "poisson"] == [2.0, 4.0, 6.0, 7.2]


def test_a_server_that_refuses_requests_is_saturated() -> None:
    assert [load.concurrency for load in play(capacity=1000, fails_from=4) if load.concurrency] == [1, 2, 4]


def test_there_is_an_end_in_any_case() -> None:
    assert max(load.concurrency or 0 for load in play(capacity=10**9)) == 256


def test_the_first_load_is_known_beforehand_and_a_stopped_sweep_ends() -> None:
    loads = SWEEP.loads(list)
    assert SWEEP.known() == (next(loads),)
    assert list(loads) == []


def test_steps_are_as_long_as_asked() -> None:
    assert {load.requests for load in play(2, sweep=replace(SWEEP, requests=40))} == {40}
    assert {load.duration_s for load in play(2, sweep=replace(SWEEP, duration_s=7.0))} == {7.0}
    assert [load.requests for load in play(8)][:5] == [16, 16, 16, 32, 64]
