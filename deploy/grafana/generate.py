"""Writes tgi.json, a Grafana board, and docs/metrics.md from the metrics: `python deploy/grafana/generate.py`.

A test compares, so neither can grow stale: a new series gets its panel and its line by being there.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from tgi.engine.messages import EngineReady, MemoryLedger
from tgi.server.exposition import Family
from tgi.server.metrics import Metrics

BOARD = Path(__file__).with_name("tgi.json")
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SELECTOR = '{instance=~"$instance"}'
QUANTILES = (0.5, 0.9, 0.99)
UNITS = {"s": "s", "bytes": "bytes"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 3
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def families() -> list[Family]:
    """All families of a server, in order; the limits of this one matter to no document."""
    memory = MemoryLedger(weights=0, activations=0, kv_block=0, kv_cache=0, available=0)
    ready = EngineReady(
        model_type="", dtype="", device="", quantize=None, kernels="", vocab_size=1, num_blocks=1, block_size=16,
        max_total_tokens=1, max_step_tokens=1, max_rows=1, memory=memory, load_s=0.0, warmup_s=0.0,
    )  # fmt: skip
    return list(Metrics(ready, max_input_tokens=100, max_total_tokens=200).families)


def board() -> str:
    """The board, ready to be imported."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, members in groupby(families(), key=lambda family: family.section):
        row = {"x": 0, "y": top, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": row,
                       "panels": []})  # fmt: skip
        top += 1
        shown = list(members)
        for index, family in enumerate(shown):
            place = {"x": index % COLUMNS * WIDTH, "y": top + index // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(family, len(panels) + 1, place))
        top += -(-len(shown) // COLUMNS) * HEIGHT
    document = {
        "uid": "tgi", "title": "Text generation", "tags": ["tgi"], "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "10s", "time": {"from": "now-30m", "to": "now"}, "timezone": "browser",
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            {"name": "instance", "type": "query", "label": "Instance", "datasource": DATASOURCE, "multi": True,
             "includeAll": True, "allValue": ".*", "refresh": 2,
             "query": {"query": "label_values(tgi_request_count, instance)", "refId": "instance"}},
        ]},
        "panels": panels,
    }  # fmt: skip
    return json.dumps(document, indent=2) + "\n"


def _panel(family: Family, number: int, place: dict[str, int]) -> dict[str, Any]:
    per_second = family.kind == "counter"
    unit = UNITS.get(family.unit, "short")
    return {
        "id": number, "type": "timeseries", "title": family.name, "description": family.help.capitalize(),
        "datasource": DATASOURCE, "gridPos": place,
        "fieldConfig": {"defaults": {"unit": "cps" if per_second else unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": DATASOURCE}
            for index, (query, legend) in enumerate(_queries(family))
        ],
    }  # fmt: skip


def _queries(family: Family) -> list[tuple[str, str]]:
    """What a panel asks Prometheus, and what its lines are called."""
    legend = f"{{{{{family.label}}}}}" if family.label else family.name.removeprefix("tgi_")
    by = f" by ({family.label})" if family.label else ""
    if family.kind == "counter":
        return [(f"sum{by} (rate({family.name}{SELECTOR}[$__rate_interval]))", legend)]
    if family.kind == "gauge":
        return [(f"sum{by} ({family.name}{SELECTOR})", legend)]
    buckets = f"{family.name}_bucket{SELECTOR}[$__rate_interval]"
    labels = f"le, {family.label}" if family.label else "le"
    suffix = f" {legend}" if family.label else ""
    return [
        (f"histogram_quantile({quantile}, sum by ({labels}) (rate({buckets})))", f"p{quantile * 100:g}{suffix}")
        for quantile in QUANTILES
    ]


def page() -> str:
    """docs/metrics.md."""
    text = PAGE.with_name("metrics.in.md").read_text(encoding="utf-8")
    blocks = []
    for title, members in groupby(families(), key=lambda family: family.section):
        rows = [_row(family) for family in members]
        head = "| name | type | labels | unit | meaning |\n|---|---|---|---|---|"
        blocks.append("\n".join([f"### {title}", "", head, *rows]))
    return text.replace("{{series}}", "\n\n".join(blocks))


def _row(family: Family) -> str:
    values = ", ".join(f"`{value}`" for value in family.values)
    labels = f"`{family.label}`: {values}" if family.label else ""
    return f"| `{family.name}` | {family.kind} | {labels} | {family.unit} | {family.help} |"


if __name__ == "__main__":
    BOARD.write_text(board(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
