"""A run in JSON and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import example_results
from tgi.bench import results
from tgi.bench.results import UnreadableResult


def test_a_run_survives_json() -> None:
    run = example_results.run()
    assert results.from_json(results.to_json(run), "x") == run


def test_without_traces_only_figures_are_left() -> None:
    data = json.loads(results.to_json(example_results.run(), traces=False))
    assert all(step["traces"] == [] and step["samples"] == [] for step in data["steps"])
    assert data["steps"][0]["summary"]["ttft_ms"]["p50"] > 0
    assert data["schema_version"] == 1


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"schema_version": "1"}'])
def test_what_is_no_result_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnreadableResult, match=r"`my\.json` is no result of `tgi bench`"):
        results.from_json(text.encode(), "my.json")


def test_another_schema_version_is_refused() -> None:
    with pytest.raises(UnreadableResult, match="schema version 99"):
        results.from_json(b'{"schema_version": 99}', "my.json")


def test_a_damaged_result_names_the_place() -> None:
    with pytest.raises(UnreadableResult, match=r"damaged.*seed"):
        results.from_json(results.to_json(example_results.run()).replace(b'"seed":0', b'"seed":"x"'), "my.json")


def test_a_saved_file_is_read(tmp_path: Path) -> None:
    saved = tmp_path / "a.json"
    saved.write_bytes(results.to_json(example_results.preset_run()))
    assert results.read(saved) == example_results.preset_run()
