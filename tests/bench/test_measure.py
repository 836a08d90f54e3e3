"""Figures of traces whose times are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tgi.bench.measure import batch_run, distribution, keeps, summarise, summarise_batches
from tgi.bench.results import BatchRun, Load, Objective, Trace

TRACE = Trace(
    number=0, scheduled_s=1.0, sent_s=1.1, finished_s=3.0, token_times_s=(1.5, 1.7, 2.0, 2.5), prompt_tokens=10,
    output_tokens=4,
)  # fmt: skip


def test_a_distribution_sorts_and_interpolates() -> None:
    found = distribution([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.count, found.mean, found.min, found.max, found.p50) == (4, 2.5, 1.0, 4.0, 2.5)
    assert found.p90 == pytest.approx(3.7)
    assert distribution([]) is None


def test_tgis_percentiles_are_values_that_occurred_of_sorted_ones() -> None:
    found = distribution([float(n) for n in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)], as_tgi=True)
    assert found is not None
    assert (found.p50, found.p90, found.p99) == (6.0, 10.0, 10.0)


def test_latencies_count_from_the_scheduled_moment() -> None:
    found = summarise([TRACE])
    assert found.ttft_ms is not None
    assert found.ttft_ms.p50 == pytest.approx(500)
    assert found.e2e_ms is not None
    assert found.e2e_ms.p50 == pytest.approx(2000)
    assert found.late_ms is not None
    assert found.late_ms.p50 == pytest.approx(100)
    assert found.itl_ms is not None
    assert (found.itl_ms.count, found.itl_ms.min, found.itl_ms.max) == pytest.approx((3, 200, 500))
    assert found.tpot_ms is not None
    assert found.tpot_ms.mean == pytest.approx(1000 / 3)


def test_rates_are_of_successful_requests_over_the_whole_step() -> None:
    second = replace(TRACE, number=1, scheduled_s=2.0, sent_s=2.0, finished_s=6.0)
    failed = replace(TRACE, number=2, error="timeout", finished_s=5.0)
    found = summarise([TRACE, second, failed])
    assert (found.requests, found.completed, found.failed, found.errors) == (3, 2, 1, {"timeout": 1})
    assert found.duration_s == pytest.approx(5.0)
    assert found.output_token_rate == pytest.approx(8 / 5)
    assert found.total_token_rate == pytest.approx(28 / 5)
    assert found.request_rate == pytest.approx(2 / 5)
    assert found.mean_concurrency == pytest.approx((1.9 + 4.0 + 3.9) / 5)


def test_warming_up_does_not_count() -> None:
    assert summarise([TRACE, replace(TRACE, warmup=True, error="timeout")]) == summarise([TRACE])


def test_a_step_without_requests_has_no_values() -> None:
    found = summarise([])
    assert (found.requests, found.output_token_rate, found.ttft_ms) == (0, 0.0, None)


def test_several_tokens_in_one_event_count_for_the_time_a_token() -> None:
    found = summarise([replace(TRACE, output_tokens=11)])
    assert found.tpot_ms is not None
    assert found.tpot_ms.mean == pytest.approx(100)


@pytest.mark.parametrize(
    ("metric", "limit", "kept"),
    [("ttft", 500, True), ("ttft", 499, False), ("itl", 334, True), ("itl", 333, False), ("e2e", 2000, True),
     ("e2e", 1999, False)],
)  # fmt: skip
def test_an_objective_is_kept_up_to_its_limit(metric: str, limit: float, kept: bool) -> None:
    objective = Objective(metric=metric, milliseconds=limit)
    assert keeps(TRACE, [objective]) is kept
    assert not keeps(replace(TRACE, error="timeout"), [objective])


def test_goodput_counts_requests_that_keep_every_objective() -> None:
    slow = replace(TRACE, number=1, token_times_s=(2.4, 2.5))
    objectives = (Objective(metric="ttft", milliseconds=600), Objective(metric="itl", milliseconds=400))
    found = summarise([TRACE, slow], objectives)
    assert (found.good_requests, found.good_rate) == (1, pytest.approx(0.5))
    assert summarise([TRACE]).good_requests is None


def test_a_batch_is_prefilled_when_its_last_request_has_a_token() -> None:
    wave = [TRACE, replace(TRACE, number=1, sent_s=1.2, token_times_s=(1.9, 2.9))]
    run = batch_run(wave)
    assert run is not None
    assert (run.prefill_s, run.decode_s) == pytest.approx((0.8, 1.0))
    assert batch_run([TRACE, replace(TRACE, error="timeout")]) is None
    assert batch_run([]) is None


def test_tgis_figures_follow_its_formulas() -> None:
    load = Load(kind="batch", label="x", concurrency=4, prompt_tokens=10, output_tokens=8)
    found = summarise_batches(load, [BatchRun(prefill_s=0.5, decode_s=1.4)])
    assert found is not None
    assert found.prefill_ms.mean == pytest.approx(500)
    assert found.prefill_rate.mean == pytest.approx(4 * 10 / 0.5)
    assert found.decode_total_ms.mean == pytest.approx(1400)
    assert found.decode_token_ms.mean == pytest.approx(1400 / 7)
    assert found.decode_rate.mean == pytest.approx(4 * 7 / 1.4)


def test_one_token_has_no_decode() -> None:
    load = Load(kind="batch", label="x", concurrency=4, prompt_tokens=10, output_tokens=1)
    found = summarise_batches(load, [BatchRun(prefill_s=0.5, decode_s=0.0)])
    assert found is not None
    assert (found.decode_rate.mean, found.decode_token_ms.mean) == (0.0, 0.0)
    assert summarise_batches(load, []) is None
