"""A finished benchmark as one HTML file that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tgi.bench import report
from tgi.bench.html_charts import short
from tgi.bench.html_plots import (
    MOST_STEPS,
    Line,
    comparison_charts,
    distribution_charts,
    load_charts,
    roof_charts,
    time_charts,
)
from tgi.bench.html_style import STYLE
from tgi.bench.results import Run, Step

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    name: str
    value: str
    unit: str
    of: str  # the load it was reached with


def render(run: Run, *more: Run) -> str:
    """The page of a run, or of several beside each other. Their requests' traces make the histograms."""
    runs = (run, *more)
    lines = _lines(runs)
    title = f"Benchmark of {', '.join(dict.fromkeys(target.model.id for one in runs for target in one.targets))}"
    body = [_header(title, runs), "<main>"]
    body += [_section("Comparison", comparison_charts(one), _table("Ratios", report.comparison_table(one)))
             for one in runs if one.comparison]  # fmt: skip
    body.append(_section("Throughput and latency by load", load_charts(lines)))
    body.append(_section("Distance to the hardware limit", roof_charts(lines)))
    body += [_tables(one, f" of run {number}" if more else "") for number, one in enumerate(runs, 1)]
    body.append(
        _section("Distributions", *(distribution_charts(step, name) for step, name in _steps(lines)[:MOST_STEPS]))
    )
    body.append(_section("Over time", time_charts(lines)))
    body += [_conditions(one, f" of run {number}" if more else "") for number, one in enumerate(runs, 1)]
    body.append("</main><footer>Written by tgi bench. Hover over points and bars for their values.</footer>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def _lines(runs: Sequence[Run]) -> list[Line]:
    """What is one line in a chart: the steps of one target of one run."""
    found: list[Line] = []
    for number, run in enumerate(runs, 1):
        for index, target in enumerate(run.targets):
            steps = tuple(step for step in run.steps if step.target == index)
            side = f"{'AB'[index] if index < 2 else index}: " if len(run.targets) > 1 else ""
            which = f"run {number} " if len(runs) > 1 else ""
            found.append(Line(name=which + side + target.url, short=which + side, steps=steps, hue=len(found)))
    return [line for line in found if line.steps]


def _steps(lines: Sequence[Line]) -> list[tuple[Step, str]]:
    return [(step, f"{line.short}{step.load.label}") for line in lines for step in line.steps]


def _header(title: str, runs: Sequence[Run]) -> str:
    servers = dict.fromkeys(f"{target.server} at {target.url}" for run in runs for target in run.targets)
    about = f"{'; '.join(servers)} · {', '.join(dict.fromkeys(run.started_at for run in runs))}"
    verdicts = "".join(f'<p class="verdict">{escape(run.verdict)}</p>' for run in runs if run.verdict)
    broken = any(run.interrupted for run in runs)
    warning = '<p class="verdict warning">The run was stopped before all steps were done.</p>' if broken else ""
    cards = "".join(
        f"<li>{escape(card.name)}<b>{escape(card.value)} <small>{escape(card.unit)}</small></b>"
        f"<small>{escape(card.of)}</small></li>"
        for card in _cards(_steps(_lines(runs)))
    )
    shown = f'<ul class="cards">{cards}</ul>' if cards else ""
    return f'<header><h1>{escape(title)}</h1><p class="soft">{escape(about)}</p>{verdicts}{warning}{shown}</header>'


def _cards(steps: Sequence[tuple[Step, str]]) -> list[_Card]:
    """The best figures of all steps, and the step that each was reached in."""
    if not steps:
        return []
    step, name = max(steps, key=lambda pair: pair[0].summary.output_token_rate)
    cards = [_Card(name="Throughput", value=short(step.summary.output_token_rate), unit="tokens/s", of=name)]
    for title, key in (("TTFT, p50", "ttft_ms"), ("Inter-token, p50", "itl_ms")):
        found = [(getattr(step.summary, key).p50, name) for step, name in steps if getattr(step.summary, key)]
        if found:
            value, name = min(found)
            cards.append(_Card(name=title, value=short(value), unit="ms", of=name))
    good = [(step.summary.good_rate, name) for step, name in steps if step.summary.good_rate is not None]
    if good:
        rate, name = max(good)
        cards.append(_Card(name="Goodput", value=short(rate), unit="requests/s", of=name))
    roofs = [(roof.percent, f"{roof.phase}, {name}") for step, name in steps for roof in step.roofs]
    if roofs:
        percent, name = max(roofs)
        cards.append(_Card(name="Of the roof", value=f"{percent:.1f}", unit="%", of=name))
    failed, sent = (sum(getattr(step.summary, key) for step, _ in steps) for key in ("failed", "requests"))
    cards.append(_Card(name="Failed requests", value=f"{failed:,}", unit=f"of {sent:,}", of="all steps"))
    return cards


def _section(title: str, *parts: str) -> str:
    inside = "".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>{inside}</section>" if inside else ""


def _tables(run: Run, which: str) -> str:
    batches = [step for step in run.steps if step.batch is not None]
    return _section(
        f"Figures{which}",
        _table("Prefill and decode latency", report.tgi_latency_table(batches)) if batches else "",
        _table("Prefill and decode throughput", report.tgi_throughput_table(batches)) if batches else "",
        _table("Latency", report.latency_table(run)),
        _table("Throughput and errors", report.throughput_table(run)),
        _table("By the server", report.server_table(run)),
        _table("Distance to the hardware limit", report.roof_table(run)),
    )


def _conditions(run: Run, which: str) -> str:
    """Everything needed to believe the figures, or to measure them again."""
    machine = run.machine
    where = "" if machine.serves else " (the client's; the server runs elsewhere)"
    rows = [
        ("Command", f"<pre>{escape(run.command)}</pre>"),
        ("Seed", str(run.seed)),
        ("Started", escape(run.started_at)),
        ("Machine", escape(f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB memory, "
                           f"{machine.system}{where}")),
        ("Versions", escape(", ".join(f"{name} {version}" for name, version in run.versions.items()))),
    ]  # fmt: skip
    for index, target in enumerate(run.targets):
        model, side = target.model, f" {'AB'[index]}" if len(run.targets) == 2 else ""
        rows += [
            (f"Server{side}", escape(f"{target.server} at {target.url}, protocol {target.protocol}")),
            (f"Model{side}", escape(", ".join(part for part in (model.id, model.dtype, model.device) if part))),
            (f"Model revision{side}", escape(model.revision or "not told by the server")),
            (f"Model hash{side}", escape(model.hash or "not told by the server")),
        ]
    if run.objectives:
        rows.append(("Objectives", escape(report.objectives_text(run.objectives))))
    rows += [("Note", escape(note)) for note in run.notes]
    body = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    facts = (
        f'<div class="scroll"><table class="words"><caption>Where and how</caption><tbody>{body}</tbody></table></div>'
    )
    asked = _table("Parameters", report.parameters_table(run), words=True)
    return _section(f"Conditions{which}", facts, f"<details><summary>Parameters</summary>{asked}</details>")


def _table(caption: str, markdown: str, *, words: bool = False) -> str:
    """The tables of a Markdown report as HTML, other lines as paragraphs: figures are formatted in one place only."""
    rows, around = [], []
    for line in markdown.splitlines():
        if line.startswith("|"):
            rows.append(_cells(line))
        elif line:
            around.append(f'<p class="soft">{escape(line)}</p>')
    if not rows:
        return ""
    # Words stand on the left of their column, figures on the right.
    kinds = [
        ' class="t"' if any(cell and not cell[0].isdigit() and cell[0] != "-" for cell in column) else ""
        for column in zip(*rows[2:], strict=True)
    ] or [""] * len(rows[0])
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, rows[0], strict=True))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows[2:]
    )
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll"><table{kind}><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{''.join(around)}"
    )


def _cells(line: str) -> list[str]:
    """The cells of one line of a Markdown table, in which `\\|` is a bar of the text."""
    kept = line.strip("|").replace("\\|", "\0")
    return [cell.strip().replace("\0", "|") for cell in kept.split("|")]
