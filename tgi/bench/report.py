"""A finished run as text: TGI's tables, tables of latency and of the roof, CSV, JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from tgi.bench.compare import NAMES
from tgi.bench.results import CACHED, Distribution, Objective, Run, Step
from tgi.bench.workload import BATCH

Row = Sequence[str]
_DISTRIBUTIONS = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "late_ms")
_COUNTS = (
    "requests", "completed", "failed", "duration_s", "prompt_tokens", "output_tokens", "request_rate",
    "output_token_rate", "total_token_rate", "mean_concurrency", "good_requests", "good_rate",
)  # fmt: skip
_STATISTICS = ("mean", "std", "min", "max", "p50", "p90", "p95", "p99")


def markdown(run: Run) -> str:
    """The whole run as Markdown tables, which terminals show well too. Runs of TGI's method begin with its three."""
    return "\n\n".join(part for part in sections(run) if part) + "\n"


def sections(run: Run) -> list[str]:
    """The parts of the report, in order; empty ones are those that the run has nothing for."""
    batches = [step for step in run.steps if step.batch is not None]
    with_tgi_tables = any(step.load.kind == BATCH for step in run.steps)
    return [
        parameters_table(run),
        tgi_latency_table(batches) if with_tgi_tables and batches else "",
        tgi_throughput_table(batches) if with_tgi_tables and batches else "",
        latency_table(run),
        throughput_table(run),
        server_table(run),
        roof_table(run),
        comparison_table(run),
        _facts(run),
    ]


def parameters_table(run: Run) -> str:
    """What was asked for."""
    return table(("Parameter", "Value"), run.parameters.items())


def tgi_latency_table(steps: Sequence[Step]) -> str:
    """TGI's second table: prefill and decode latencies by batch size."""
    rows = []
    for name, key in (("Prefill", "prefill_ms"), ("Decode (token)", "decode_token_ms"),
                      ("Decode (total)", "decode_total_ms")):  # fmt: skip
        for index, step in enumerate(steps):
            found: Distribution = getattr(step.batch, key)
            values = (found.mean, found.min, found.max, found.p50, found.p90, found.p99)
            rows.append(("" if index else name, str(step.load.concurrency), *(f"{value:.2f} ms" for value in values)))
    return table(("Step", "Batch Size", "Average", "Lowest", "Highest", "p50", "p90", "p99"), rows)


def tgi_throughput_table(steps: Sequence[Step]) -> str:
    """TGI's third table: prefill and decode throughput by batch size."""
    rows = []
    for name, key in (("Prefill", "prefill_rate"), ("Decode", "decode_rate")):
        for index, step in enumerate(steps):
            found: Distribution = getattr(step.batch, key)
            values = (found.mean, found.min, found.max)
            rows.append(
                ("" if index else name, str(step.load.concurrency), *(f"{value:.2f} tokens/secs" for value in values))
            )
    return table(("Step", "Batch Size", "Average", "Lowest", "Highest"), rows)


def latency_table(run: Run) -> str:
    """Latencies as a client sees them."""
    rows = []
    for step in run.steps:
        named = _label(run, step)
        for name, found in (
            ("TTFT", step.summary.ttft_ms),
            ("Inter-token", step.summary.itl_ms),
            ("End-to-end", step.summary.e2e_ms),
        ):
            if found is not None:
                values = (found.mean, found.min, found.max, found.p50, found.p90, found.p99)
                rows.append((named, name, *(f"{value:.2f} ms" for value in values)))
                named = ""
    return table(("Load", "Latency", "Average", "Lowest", "Highest", "p50", "p90", "p99"), rows) if rows else ""


def throughput_table(run: Run) -> str:
    """Rates and errors, and goodput where objectives were given."""
    goodput = bool(run.objectives)
    rows = []
    for step in run.steps:
        found = step.summary
        errors = ", ".join(f"{count} {kind}" for kind, count in found.errors.items()) or "0"
        row = [
            _label(run, step), str(found.completed), errors, f"{found.request_rate:.2f}",
            f"{found.output_token_rate:.2f}", f"{found.total_token_rate:.2f}", f"{found.mean_concurrency:.1f}",
        ]  # fmt: skip
        if goodput:
            good = found.good_requests or 0
            share = 100 * good / found.requests if found.requests else 0.0
            row.append(f"{found.good_rate or 0.0:.2f} req/s ({share:.0f} %)")
        rows.append(row)
    heads = ["Load", "Completed", "Errors", "Requests/s", "Output tokens/s", "Total tokens/s", "Concurrency"]
    if goodput:
        heads.append(f"Goodput ({objectives_text(run.objectives)})")
    return table(heads, rows) if rows else ""


def server_table(run: Run) -> str:
    """The server's own view of the time, from its histograms, beside ours."""
    names = (
        ("queue", "tgi_request_queue_duration", "vllm:request_queue_time_seconds"),
        ("time to first token", "tgi_request_time_to_first_token", "vllm:time_to_first_token_seconds"),
        ("between tokens", "tgi_request_inter_token_latency", "vllm:inter_token_latency_seconds"),
        ("request", "tgi_request_duration", "vllm:e2e_request_latency_seconds"),
    )
    rows = []
    for step in run.steps:
        named = _label(run, step)
        for title, *series in names:
            found = next((name for name in series if name in step.server.means), None)
            if found is not None:
                values = (step.server.means[found], step.server.p50[found], step.server.p99[found])
                rows.append((named, title, *(f"{1e3 * value:.2f} ms" for value in values)))
                named = ""
    return table(("Load", "By the server", "Average", "p50", "p99"), rows) if rows else ""


def roof_table(run: Run) -> str:
    """The distance to the hardware limit."""
    rows = []
    for step in run.steps:
        named = _label(run, step)
        for roof in step.roofs:
            rows.append(
                (named, roof.phase, f"{roof.tokens_per_s:.1f}", f"{roof.roof_tokens_per_s:.1f}",
                 f"{roof.percent:.1f} %", roof.bound, _si(roof.bytes_per_token, "B"),
                 _si(roof.operations_per_token, "op"))
            )  # fmt: skip
            named = ""
    if not rows or run.roof is None:
        return ""
    integers = "" if run.roof.integer_rate is None else f", {_si(run.roof.integer_rate, 'op')}/s of 8-bit integers"
    held = [(size, rate) for size, rate in run.roof.caches if rate > CACHED * run.roof.bandwidth]
    caches = f"{_si(held[-1][1], 'B')}/s of {_si(held[-1][0], 'B')} that its caches hold, " if held else ""
    limits = (
        f"This machine's limits: {_si(run.roof.bandwidth, 'B')}/s from memory, {caches}"
        f"{_si(run.roof.float32_rate, 'op')}/s of float32{integers}."
    )
    heads = ("Load", "Phase", "tokens/s", "Roof", "Of the roof", "Bound by", "Bytes/token", "Operations/token")
    return f"{table(heads, rows)}\n\n{limits}"


def comparison_table(run: Run) -> str:
    """Ratios of two servers, and the verdict."""
    if not run.comparison:
        return ""
    rows = []
    last = ""
    for ratio in run.comparison:
        unit = "tokens/s" if ratio.metric.endswith("_rate") else "ms"
        rows.append(
            ("" if ratio.load == last else ratio.load, NAMES[ratio.metric], f"{ratio.a:.2f} {unit}",
             f"{ratio.b:.2f} {unit}", f"{ratio.ratio:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}",
             ratio.better or "undecided")
        )  # fmt: skip
        last = ratio.load
    heads = ("Load", "Figure", "A", "B", "B / A", "95 % interval", "Better")
    names = "\n".join(f"{side}: {run.targets[index].url}" for index, side in enumerate("AB"))
    return f"{names}\n\n{table(heads, rows)}\n\nVerdict: {run.verdict}"


def rows_csv(run: Run) -> str:
    """One line a step, one column a figure: for spreadsheets."""
    heads = [
        "target", "load", "kind", "concurrency", "rate", *_COUNTS,
        *(f"{name.removesuffix('_ms')}_{statistic}_ms" for name in _DISTRIBUTIONS for statistic in _STATISTICS),
        "errors", "prefill_percent_of_roof", "decode_percent_of_roof",
        "model", "model_hash", "model_revision", "seed", "machine", "tgi", "server", "started_at", "command",
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    for step in run.steps:
        target, summary = run.targets[step.target], step.summary
        found = [getattr(summary, name) for name in _DISTRIBUTIONS]
        percents = {roof.phase: roof.percent for roof in step.roofs}
        values = [
            target.url, step.load.label, step.load.kind, step.load.concurrency, step.load.rate,
            *(getattr(summary, name) for name in _COUNTS),
            *(getattr(one, statistic) if one else None for one in found for statistic in _STATISTICS),
            " ".join(f"{kind}={count}" for kind, count in summary.errors.items()),
            percents.get("prefill"), percents.get("decode"),
            target.model.id, target.model.hash, target.model.revision, run.seed, run.machine.cpu,
            run.versions.get("tgi"), target.server, step.started_at, run.command,
        ]  # fmt: skip
        writer.writerow("" if value is None else value for value in values)
    return out.getvalue()


def json_lines(run: Run) -> bytes:
    """First the run without its steps (`"type": "run"`), then every step without traces, then every request."""
    encode = msgspec.json.encode
    lines = [encode({"type": "run", **msgspec.to_builtins(replace(run, steps=()))})]
    for index, step in enumerate(run.steps):
        lines.append(
            encode({"type": "step", "step": index, **msgspec.to_builtins(replace(step, traces=(), samples=()))})
        )
        lines += [encode({"type": "request", "step": index, **msgspec.to_builtins(trace)}) for trace in step.traces]
    return b"\n".join(lines) + b"\n"


def objectives_text(objectives: Iterable[Objective]) -> str:
    """The objectives as they are given on the command line."""
    return ",".join(f"{objective.metric}={objective.milliseconds:g}ms" for objective in objectives)


def table(heads: Row, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose columns line up in plain text as well."""
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in (tuple(heads), *cells)) for column in range(len(heads))]
    line = "|" + "|".join("-" * (width + 2) for width in widths) + "|"

    def written(row: Row) -> str:
        return "|" + "|".join(f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True)) + "|"

    return "\n".join([written(heads), line, *(written(row) for row in cells)])


def _facts(run: Run) -> str:
    """Where the figures come from."""
    lines = []
    for target in run.targets:
        model = target.model
        details = [detail for detail in (model.revision, model.hash, model.dtype, model.device) if detail]
        lines.append(f"Server: {target.url} ({target.server}, {target.protocol}), model {model.id}"
                     + (f" ({', '.join(details)})" if details else ""))  # fmt: skip
    machine = run.machine
    lines.append(
        f"Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB, {machine.system}"
        + ("" if machine.serves else " (the client's; the server runs elsewhere)")
    )
    lines.append("Versions: " + ", ".join(f"{name} {version}" for name, version in run.versions.items()))
    lines.append(f"Command: {run.command}")
    lines.append(f"Seed: {run.seed}")
    lines += [f"Note: {note}" for note in run.notes]
    if run.interrupted:
        lines.append("Note: the run was stopped before it was done")
    return "\n".join(f"- {line}" for line in lines)


def _label(run: Run, step: Step) -> str:
    side = f"{'AB'[step.target]}: " if len(run.targets) > 1 else ""
    return side + step.load.label


def _si(value: float, unit: str) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
