"""The board and the page of metrics are what the metrics say, and ask for nothing that does not exist."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_ready
from tgi.server.metrics import Metrics

ROOT = Path(__file__).parents[2]
GENERATED = runpy.run_path(str(ROOT / "deploy" / "grafana" / "generate.py"))
BOARD: dict[str, Any] = json.loads(GENERATED["board"]())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize(("path", "make"), [("deploy/grafana/tgi.json", "board"), ("docs/metrics.md", "page")])
def test_what_is_committed_is_up_to_date(path: str, make: str) -> None:
    expected = GENERATED[make]()
    assert (ROOT / path).read_text(encoding="utf-8") == expected, "run `python deploy/grafana/generate.py`"


def test_every_query_names_series_that_exist_and_every_family_is_shown() -> None:
    text = Metrics(make_ready(), max_input_tokens=10, max_total_tokens=20).render().decode()
    samples = set(re.findall(r"^(tgi_\w+)", text, re.MULTILINE))
    families = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"\btgi_\w+", expression)}
    assert asked <= samples
    assert {name.removesuffix("_bucket") for name in asked} == families


def test_panels_stand_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_there_are_rows_for_latency_the_cache_and_resilience() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert {"Requests", "Latency", "Batching", "KV cache", "Resilience"} <= set(rows)
    assert all(expression.count("(") == expression.count(")") for expression in EXPRESSIONS)
