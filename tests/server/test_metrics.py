"""TGI's names, labels and buckets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import make_ready
from tgi.engine.messages import NOT_NUMBERS, StepStats
from tgi.server.metrics import LAG_INTERVAL_S, SECONDS, Metrics
from tgi.server.timing import Timings

COUNTERS = {
    "tgi_request_count": None, "tgi_request_success": None, "tgi_request_failure": "err", "tgi_batch_concat": "reason",
    "tgi_batch_inference_count": "method", "tgi_batch_inference_success": "method",
    "tgi_batch_inference_failure": "method",
}  # fmt: skip
GAUGES = ["tgi_queue_size", "tgi_batch_current_size", "tgi_batch_current_max_tokens", "tgi_batch_max_total_tokens"]
REQUEST_HISTOGRAMS = [
    "input_length", "max_new_tokens", "generated_tokens", "duration", "validation_duration", "queue_duration",
    "inference_duration", "mean_time_per_token_duration", "skipped_tokens",
]  # fmt: skip
BATCH_HISTOGRAMS = ["inference_duration", "forward_duration", "decode_duration", "filter_duration", "concat_duration"]


def metrics() -> Metrics:
    return Metrics(make_ready(), max_input_tokens=1000, max_total_tokens=2000)


def families(series: Metrics) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(series.render().decode())}


def value(series: Metrics, line: str) -> float:
    text = series.render().decode().splitlines()
    return float(next(one for one in text if one.startswith(line + " ")).split()[-1])


def stats(**changes: Any) -> StepStats:
    fields = dict.fromkeys(
        ("waiting", "running", "cached_tokens", "preemptions", "prefill_tokens", "decode_tokens"), 0
    ) | {"free_blocks": 60, "forward_s": 0.01, "sample_s": 0.002}
    return StepStats(**(fields | changes))


def test_compiled_grammars_are_timed_and_what_is_remembered_is_measured() -> None:
    series = metrics()
    series.compiled(0.03, 700)
    assert value(series, 'tgi_grammar_compile_duration_bucket{le="0.1"}') == 1
    assert value(series, 'tgi_grammar_compile_duration_bucket{le="0.01"}') == 0
    assert value(series, "tgi_grammar_cache_bytes") == 700


def test_every_name_of_tgi_is_there_under_its_type_and_labels() -> None:
    text = metrics().render().decode()
    for name, label in COUNTERS.items():
        assert f"# TYPE {name} counter\n" in text
        assert (f'\n{name}{{{label}="' if label else f"\n{name} 0\n") in text
    for name in GAUGES:
        assert f"# TYPE {name} gauge\n" in text
    for name in REQUEST_HISTOGRAMS:
        assert f'\ntgi_request_{name}_bucket{{le="' in text
    for name in [*BATCH_HISTOGRAMS]:
        assert f'\ntgi_batch_{name}_bucket{{method="' in text or f'\ntgi_batch_{name}_bucket{{le="' in text
    assert "_total{" not in text
    assert "_created" not in text
    assert 'tgi_request_failure{err="dropped"} 0' in text


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [("tgi_request_duration", 0.00015, 36), ("tgi_request_input_length", 10.0, 101),
     ("tgi_request_generated_tokens", 20.0, 101), ("tgi_request_max_new_tokens", 20.0, 101),
     ("tgi_batch_next_size", 1.0, 1025), ("tgi_request_skipped_tokens", 0.0, 9)],
)  # fmt: skip
def test_buckets(name: str, first: float, count: int) -> None:
    buckets = [one for one in families(metrics())[name].samples if one.name.endswith("_bucket")]
    assert (float(buckets[0].labels["le"]), len(buckets)) == (pytest.approx(first), count)
    assert buckets[-1].labels["le"] == "+Inf"


def test_the_number_of_series_is_bounded() -> None:
    assert sum(len(family.samples) for family in families(metrics()).values()) <= 2000


def test_a_complete_sequence_is_measured() -> None:
    series = metrics()
    series.succeeded(Timings(received=0.0, queued=1.0, scheduled=3.0, done=7.0), 8)
    expected = {"duration": 7.0, "validation_duration": 1.0, "queue_duration": 2.0, "inference_duration": 4.0,
                "mean_time_per_token_duration": 0.5, "generated_tokens": 8.0}  # fmt: skip
    assert {name: value(series, f"tgi_request_{name}_sum") for name in expected} == expected
    assert value(series, "tgi_request_success") == 1


def test_a_step_sets_the_gauges() -> None:
    series = metrics()
    series.step(stats(waiting=3, running=4, decode_tokens=2, prefill_tokens=9, started_ids=(1, 2), cached_tokens=16,
                      preemptions=1), dispatch_s=0.003)  # fmt: skip
    expected = {
        "tgi_queue_size": 3, "tgi_batch_current_size": 4, "tgi_batch_current_max_tokens": 64,
        'tgi_kv_blocks{state="free"}': 60, 'tgi_kv_blocks{state="used"}': 4, "tgi_prefix_cache_hit_tokens": 16,
        "tgi_preemptions": 1, 'tgi_batch_concat{reason="chunking"}': 1, "tgi_batch_next_size_sum": 2,
        'tgi_batch_inference_count{method="prefill"}': 1, 'tgi_batch_inference_success{method="decode"}': 1,
        'tgi_batch_forward_duration_sum{method="decode"}': pytest.approx(0.012),
        'tgi_batch_inference_duration_sum{method="decode"}': pytest.approx(0.015),
        'tgi_batch_concat_duration_count{method="decode"}': 1, "tgi_batch_max_total_tokens": 1024,
    }  # fmt: skip
    assert {line: value(series, line) for line in expected} == expected


def test_an_idle_server_runs_nothing() -> None:
    series = metrics()
    series.step(stats(waiting=1, running=1), 0.0)
    assert value(series, "tgi_batch_current_size") == 1
    series.idle(64)
    assert [value(series, name) for name in GAUGES[:3]] == [0, 0, 0]


def test_a_crash_fails_what_the_engine_was_amid_and_what_goes_on_is_counted() -> None:
    series = metrics()
    series.step(stats(running=2, decode_tokens=2, free_blocks=10), 0.0)
    series.die(3, ("prefill", "decode"))
    series.restart("signal")
    series.resume(0.7)
    expected = {
        "tgi_queue_size": 3, "tgi_batch_current_size": 0, "tgi_batch_current_max_tokens": 0,
        'tgi_kv_blocks{state="used"}': 0, 'tgi_engine_restarts{reason="signal"}': 1,
        'tgi_batch_inference_failure{method="prefill"}': 1, 'tgi_batch_inference_failure{method="decode"}': 1,
        'tgi_batch_inference_count{method="decode"}': 2, 'tgi_batch_inference_success{method="decode"}': 1,
        "tgi_request_resumed": 1, "tgi_resume_gap_duration_sum": 0.7,
    }  # fmt: skip
    assert {line: value(series, line) for line in expected} == expected


def test_only_logits_that_are_no_numbers_count_as_such() -> None:
    series = metrics()
    series.refuse(1, "out of memory", ("decode",))
    assert value(series, "tgi_nonfinite_logits") == 0
    series.refuse(2, NOT_NUMBERS, ("decode",))
    assert value(series, "tgi_nonfinite_logits") == 2


def test_a_step_without_memory_is_a_failed_step() -> None:
    series = metrics()
    series.refuse(3, "out of memory", ("prefill", "decode"))
    series.refuse(1, NOT_NUMBERS, ("decode",))  # the step itself went well
    for method in ("prefill", "decode"):
        assert value(series, f'tgi_batch_inference_failure{{method="{method}"}}') == 1
        assert value(series, f'tgi_batch_inference_count{{method="{method}"}}') == 1
        assert value(series, f'tgi_batch_inference_success{{method="{method}"}}') == 0


@pytest.mark.parametrize(("status", "reason"), [(429, "overloaded"), (422, "invalid"), (401, "unauthorized")])
def test_rejections_have_a_reason(status: int, reason: str) -> None:
    series = metrics()
    series.reject(status)
    series.reject(500)  # a failure, not a rejection
    rejected = [sample for sample in families(series)["tgi_request_rejected"].samples if sample.value]
    assert [(sample.labels["reason"], sample.value) for sample in rejected] == [(reason, 1)]


async def test_a_blocked_event_loop_is_measured() -> None:
    series = metrics()
    loop = asyncio.get_running_loop()
    watcher = loop.create_task(series.watch_loop())
    await asyncio.sleep(0)
    blocked_until = loop.time() + LAG_INTERVAL_S + 0.1
    while loop.time() < blocked_until:
        pass
    while not series.loop_lag.count:  # noqa: ASYNC110  (the watcher has no event to tell it)
        await asyncio.sleep(0)
    watcher.cancel()
    assert series.loop_lag.sum >= 0.09


def test_the_bounds_of_durations_are_tgis_to_the_last_bit() -> None:
    bound, expected = 0.0001, []
    for _ in range(35):
        bound *= 1.5
        expected.append(bound)
    assert list(SECONDS) == expected
