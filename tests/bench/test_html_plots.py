"""The charts of a report show every step, and leave out what was not measured."""

from __future__ import annotations

from dataclasses import replace

from tests.bench.example_results import preset_run, run, step
from tgi.bench.html_plots import (
    MOST_STEPS,
    Line,
    comparison_charts,
    distribution_charts,
    load_charts,
    roof_charts,
    time_charts,
)

STREAMS = [Line(name="server", steps=run().steps, hue=0)]


def test_every_step_is_a_point_that_says_its_values() -> None:
    charts = load_charts(STREAMS)
    for done in run().steps:
        assert done.summary.itl_ms is not None
        assert (
            f"{done.load.label}: {done.summary.output_token_rate:.1f} tokens/s at {done.summary.itl_ms.p50:.1f} ms"
            in charts
        )
        assert f"{done.load.label}: p99 {done.summary.itl_ms.p99:.2f} ms" in charts


def test_tgis_method_shows_prefill_and_decode() -> None:
    charts = load_charts([Line(name="server", steps=preset_run().steps, hue=0)])
    assert "Prefill throughput over latency" in charts
    assert "Decode throughput over token latency" in charts


def test_histograms_count_every_request_and_leave_out_a_long_tail() -> None:
    done = step(4)
    charts = distribution_charts(done, "4 streams")
    assert charts.count("<figure>") == 3
    assert "p99: " in charts
    slow = replace(done.traces[0], finished_s=1000.0)
    assert "above" in distribution_charts(replace(done, traces=(*done.traces * 5, slow)), "x")
    assert distribution_charts(replace(done, traces=()), "x") == ""


def test_lines_over_time_need_samples_and_roofs_a_roof() -> None:
    assert time_charts(STREAMS).count("<figure>") == 2
    bare = [Line(name="s", steps=[replace(done, samples=(), roofs=()) for done in run().steps], hue=0)]
    assert time_charts(bare) == ""
    assert roof_charts(bare) == ""
    assert "32.7 %" in roof_charts(STREAMS)
    assert comparison_charts(run()) == ""


def test_a_long_sweep_has_as_many_lines_over_time_as_can_be_told_apart() -> None:
    many = [Line(name="s", steps=[step(2)] * (MOST_STEPS + 9), hue=0)]
    assert time_charts(many).count('<path class="line"') == 2 * 2 * MOST_STEPS  # two charts, each with its legend
