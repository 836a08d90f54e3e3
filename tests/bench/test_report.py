"""Results as tables, CSV and lines of JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from tests.bench import example_results
from tgi.bench import report
from tgi.bench.compare import merge

PARAMETERS = [
    "Model", "Sequence Length", "Decode Length", "Top N Tokens", "N Runs", "Warmups", "Temperature", "Top K", "Top P",
    "Typical P", "Repetition Penalty", "Frequency Penalty", "Watermark", "Do Sample",
]  # fmt: skip


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, cell by cell."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return found


def test_tgis_method_begins_with_tgis_three_tables() -> None:
    parameters, latency, throughput = tables(report.markdown(example_results.preset_run()))[:3]
    assert parameters[0] == ["Parameter", "Value"]
    assert [row[0] for row in parameters[2:]] == PARAMETERS
    assert latency[0] == ["Step", "Batch Size", "Average", "Lowest", "Highest", "p50", "p90", "p99"]
    steps = ["Prefill", "", "", "", "Decode (token)", "", "", "", "Decode (total)", "", "", ""]
    assert [row[0] for row in latency[2:]] == steps
    assert [row[1] for row in latency[2:]] == ["1", "2", "4", "8"] * 3
    assert throughput[0] == ["Step", "Batch Size", "Average", "Lowest", "Highest"]
    assert [row[0] for row in throughput[2:]] == ["Prefill", "", "", "", "Decode", "", "", ""]


def test_values_have_two_decimals_and_tgis_units() -> None:
    run = example_results.preset_run()
    _, latency, throughput = tables(report.markdown(run))[:3]
    batch = run.steps[0].batch
    assert batch is not None
    assert latency[2][2] == f"{batch.prefill_ms.mean:.2f} ms"
    assert latency[2][7] == f"{batch.prefill_ms.p99:.2f} ms"
    assert throughput[2][2] == f"{batch.prefill_rate.mean:.2f} tokens/secs"


def test_lines_of_a_table_are_of_one_length() -> None:
    for table in report.markdown(example_results.run()).split("\n\n"):
        if table.startswith("|"):
            assert len({len(line) for line in table.splitlines()}) == 1


def test_latencies_errors_goodput_server_and_roof_are_shown() -> None:
    text = report.markdown(example_results.run())
    for words in ("TTFT", "Inter-token", "End-to-end", "1 http_429, 1 incomplete", "Goodput (ttft=500ms,itl=50ms)",
                  "By the server", "Of the roof", "32.7 %", "28 GB/s from memory"):  # fmt: skip
        assert words in text


def test_every_report_says_where_it_comes_from() -> None:
    run = example_results.run()
    for text in (report.markdown(run), report.rows_csv(run), report.json_lines(run).decode()):
        for fact in (run.machine.cpu, "4.0.0", run.targets[0].model.hash or "", str(run.seed), "tgi bench http"):
            assert fact in text


def test_csv_has_a_line_a_step_and_a_column_a_figure() -> None:
    run = example_results.run()
    rows = list(csv.DictReader(io.StringIO(report.rows_csv(run))))
    assert [row["load"] for row in rows] == [step.load.label for step in run.steps]
    ttft = run.steps[0].summary.ttft_ms
    assert ttft is not None
    assert float(rows[0]["ttft_p50_ms"]) == ttft.p50
    assert rows[0]["errors"] == "http_429=1 incomplete=1"
    assert rows[0]["prefill_percent_of_roof"] == "70.0"


def test_lines_of_json_are_the_run_its_steps_and_their_requests() -> None:
    run = example_results.run()
    lines = [json.loads(line) for line in report.json_lines(run).splitlines()]
    assert [line["type"] for line in lines[:3]] == ["run", "step", "request"]
    assert sum(line["type"] == "step" for line in lines) == len(run.steps)
    assert sum(line["type"] == "request" for line in lines) == sum(len(step.traces) for step in run.steps)


def test_a_comparison_ends_with_its_verdict() -> None:
    merged = merge(example_results.run(), example_results.run())
    text = report.markdown(merged)
    assert "B / A" in text
    assert f"Verdict: {merged.verdict}" in text
    assert "A: 8 streams" in text
    assert "B: 8 streams" in text


def test_an_interrupted_run_and_its_notes_say_so() -> None:
    run = replace(example_results.run(), interrupted=True, notes=("a note",))
    text = report.markdown(run)
    assert "Note: a note" in text
    assert "stopped before it was done" in text


def test_a_run_in_which_nothing_succeeded_has_a_report() -> None:
    assert "Parameter" in report.markdown(replace(example_results.run(), steps=()))
    assert report.rows_csv(replace(example_results.run(), steps=())).count("\n") == 1
