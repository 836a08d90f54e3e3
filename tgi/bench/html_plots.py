"""Which charts a report has, and what they show of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from tgi.bench.compare import NAMES
from tgi.bench.html_charts import Interval, Mark, Series, bars, intervals, levels, plot, short
from tgi.bench.measure import e2e_s, gaps_s, ttft_s
from tgi.bench.results import Distribution, Run, Step

MOST_STEPS = 24  # steps with histograms and lines over time of their own: a page must stay below a megabyte
_MOST_BINS, _MOST_POINTS = 40, 160
_LATENCIES = (("TTFT", "ttft_ms"), ("Inter-token latency", "itl_ms"), ("End-to-end latency", "e2e_ms"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The steps of one server in one run."""

    name: str
    short: str = ""  # the same where there is little room
    steps: Sequence[Step]
    hue: int


def load_charts(lines: Sequence[Line]) -> str:
    """Throughput over latency, and latency percentiles by load; of TGI's method prefill and decode."""
    if all(step.load.kind == "batch" for line in lines for step in line.steps):
        charts = [
            _over(lines, "Prefill throughput over latency", lambda s: s.batch.prefill_ms if s.batch else None,
                  lambda s: s.batch.prefill_rate.mean if s.batch else 0.0),
            _over(lines, "Decode throughput over token latency", lambda s: s.batch.decode_token_ms if s.batch else None,
                  lambda s: s.batch.decode_rate.mean if s.batch else 0.0),
        ]  # fmt: skip
    else:
        charts = [
            _over(lines, f"Throughput over {name}, p50", _named(key), lambda s: s.summary.output_token_rate)
            for name, key in _LATENCIES[:2]
        ]
    charts += [_by_load(lines, f"{name} by load", _named(key)) for name, key in _LATENCIES]
    names = _loads(lines)
    rates = [
        Series(name=line.name, hue=line.hue, marks=[
            Mark(x=names.index(step.load.label), y=step.summary.output_token_rate,
                 says=f"{line.name}, {step.load.label}: {step.summary.output_token_rate:.1f} tokens/s")
            for step in line.steps
        ])
        for line in lines
    ]  # fmt: skip
    charts.append(plot("Throughput by load", "load", "output tokens/s", rates, names=names))
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def roof_charts(lines: Sequence[Line]) -> str:
    """Percent of what the machine could do, by phase."""
    rows: dict[str, list[tuple[str, float, str, int]]] = {"prefill": [], "decode": []}
    for line in lines:
        for step in line.steps:
            for roof in step.roofs:
                says = (
                    f"{roof.phase}, {step.load.label}: {roof.tokens_per_s:.1f} of {roof.roof_tokens_per_s:.1f} "
                    f"tokens/s, bound by {roof.bound}"
                )
                name = f"{line.short}{step.load.label}"
                rows.setdefault(roof.phase, []).append((name, roof.percent, says, 0 if roof.phase == "prefill" else 1))
    charts = [levels(phase.capitalize(), found) for phase, found in rows.items()]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def comparison_charts(run: Run) -> str:
    """Ratios of two servers with their intervals."""
    rows = []
    for ratio in run.comparison:
        name = f"{ratio.load}, {NAMES.get(ratio.metric, ratio.metric)}"
        says = f"{name}: {ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}); A {ratio.a:.2f}, B {ratio.b:.2f}"
        rows.append(
            Interval(name=name, value=ratio.ratio, low=ratio.low, high=ratio.high, better=ratio.better, says=says)
        )
    return f'<div class="charts">{intervals("B compared with A, 95 % intervals", rows)}</div>' if rows else ""


def distribution_charts(step: Step, name: str) -> str:
    """Histograms of one step; nothing where its requests were not kept."""
    good = [trace for trace in step.traces if trace.error is None and not trace.warmup]
    values: list[tuple[str, list[float]]] = [
        ("TTFT", [1e3 * first for trace in good if (first := ttft_s(trace)) is not None]),
        ("Inter-token latency", [1e3 * gap for trace in good for gap in gaps_s(trace)]),
        ("End-to-end latency", [1e3 * e2e_s(trace) for trace in good]),
    ]
    charts = "".join(_histogram(f"{title}, {name}", found) for title, found in values)
    return f'<h3>{escape(name)}</h3><div class="charts three">{charts}</div>' if charts else ""


def time_charts(lines: Sequence[Line]) -> str:
    """Throughput, and requests under way, while the steps ran."""
    charts = []
    for title, up, value in (
        ("Throughput", "tokens/s", _rates), ("Requests under way", "requests", _in_flight),
    ):  # fmt: skip
        for line in lines:
            chosen = [step for step in line.steps if len(step.samples) > 1][:MOST_STEPS]
            series = [
                Series(name=step.load.label, hue=index, dots=False, marks=_thinned(value(step)))
                for index, step in enumerate(chosen)
            ]
            name = f"{title}, {line.name}" if len(lines) > 1 else title
            charts.append(plot(name, "seconds since the step began", up, [one for one in series if one.marks]))
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _over(
    lines: Sequence[Line], title: str, latency: Callable[[Step], Distribution | None], rate: Callable[[Step], float]
) -> str:
    series = []
    for line in lines:
        marks = []
        for step in line.steps:
            found = latency(step)
            if found is not None:
                says = f"{line.name}, {step.load.label}: {rate(step):.1f} tokens/s at {found.p50:.1f} ms"
                marks.append(
                    Mark(x=found.p50, y=rate(step), says=says, label=step.load.label if len(lines) == 1 else "")
                )
        series.append(Series(name=line.name, hue=line.hue, marks=marks))
    return plot(title, "ms", "tokens/s", series)


def _by_load(lines: Sequence[Line], title: str, latency: Callable[[Step], Distribution | None]) -> str:
    names = _loads(lines)
    series = []
    for line in lines:
        for percentile, dashes in (("p50", ""), ("p90", "6 3"), ("p99", "2 3")):
            marks = [
                Mark(x=names.index(step.load.label), y=(value := getattr(found, percentile)),
                     says=f"{line.name}, {step.load.label}: {percentile} {value:.2f} ms")
                for step in line.steps if (found := latency(step)) is not None
            ]  # fmt: skip
            hue = line.hue if len(lines) > 1 else {"p50": 2, "p90": 6, "p99": 5}[percentile]
            name = f"{line.name} {percentile}" if len(lines) > 1 else percentile
            series.append(Series(name=name, hue=hue, dashes=dashes, marks=marks))
    return plot(title, "load", "ms", series, names=names)


def _histogram(title: str, values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    # A few values far away would press all others into one bar: the last percent is left out where it is long.
    cut = float(np.percentile(values, 99))
    if high - low > 3 * (cut - low) > 0:
        high = cut
    number = int(min(_MOST_BINS, max(8, 2 * len(values) ** 0.5)))
    counts, _ = np.histogram(values, bins=number, range=(low, high))
    lines = [(f"p{percent}", float(np.percentile(values, percent))) for percent in (50, 90, 99)]
    outside = sum(value > high for value in values)
    beyond = f" ({outside} above {short(high)} not shown)" if outside else ""
    return bars(title + beyond, "ms", low, high, counts.tolist(), lines)


def _rates(step: Step) -> list[Mark]:
    """Tokens a second between samples."""
    found = []
    for before, after in zip(step.samples, step.samples[1:], strict=False):
        seconds = after.at_s - before.at_s
        if seconds > 0:
            rate = max(0.0, (after.output_tokens - before.output_tokens) / seconds)
            found.append(Mark(x=after.at_s, y=rate, says=f"{rate:.1f} tokens/s"))
    return found


def _in_flight(step: Step) -> list[Mark]:
    return [Mark(x=sample.at_s, y=sample.in_flight, says=str(sample.in_flight)) for sample in step.samples]


def _thinned(marks: Sequence[Mark]) -> list[Mark]:
    """Neighbours averaged where there are more than a line can show."""
    size = -(-len(marks) // _MOST_POINTS) or 1
    groups = [marks[start : start + size] for start in range(0, len(marks), size)]
    return [Mark(x=group[-1].x, y=sum(mark.y for mark in group) / len(group), says="") for group in groups]


def _named(key: str) -> Callable[[Step], Distribution | None]:
    def latency(step: Step) -> Distribution | None:
        found: Distribution | None = getattr(step.summary, key)
        return found

    return latency


def _loads(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(step.load.label for line in lines for step in line.steps))
