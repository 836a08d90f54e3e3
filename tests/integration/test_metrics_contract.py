"""The table of spec/metrics.md, name by name, label by label and bucket by bucket, held against a live `/metrics`."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live import LiveServer

METHODS = ("prefill", "decode")
# Name, type, label, its values, buckets: D seconds, I and T shares of the limits, B requests, S skipped tokens.
TABLE: list[tuple[str, str, str, tuple[str, ...], str]] = [
    ("tgi_request_count", "counter", "", (), ""), ("tgi_request_success", "counter", "", (), ""),
    ("tgi_request_failure", "counter", "err",
     ("validation", "overloaded", "template", "incomplete", "generation", "dropped"), ""),
    ("tgi_request_input_length", "histogram", "", (), "I"), ("tgi_request_max_new_tokens", "histogram", "", (), "T"),
    ("tgi_request_generated_tokens", "histogram", "", (), "T"), ("tgi_request_duration", "histogram", "", (), "D"),
    ("tgi_request_validation_duration", "histogram", "", (), "D"),
    ("tgi_request_queue_duration", "histogram", "", (), "D"),
    ("tgi_request_inference_duration", "histogram", "", (), "D"),
    ("tgi_request_mean_time_per_token_duration", "histogram", "", (), "D"),
    ("tgi_request_skipped_tokens", "histogram", "", (), "S"),
    ("tgi_queue_size", "gauge", "", (), ""), ("tgi_batch_current_size", "gauge", "", (), ""),
    ("tgi_batch_current_max_tokens", "gauge", "", (), ""), ("tgi_batch_max_total_tokens", "gauge", "", (), ""),
    ("tgi_batch_next_size", "histogram", "", (), "B"),
    ("tgi_batch_concat", "counter", "reason", ("chunking", "wait_exceeded", "backpressure"), ""),
    ("tgi_batch_inference_count", "counter", "method", METHODS, ""),
    ("tgi_batch_inference_success", "counter", "method", METHODS, ""),
    ("tgi_batch_inference_failure", "counter", "method", METHODS, ""),
    ("tgi_batch_inference_duration", "histogram", "method", METHODS, "D"),
    ("tgi_batch_forward_duration", "histogram", "method", METHODS, "D"),
    ("tgi_batch_decode_duration", "histogram", "method", METHODS, "D"),
    ("tgi_batch_filter_duration", "histogram", "method", METHODS, "D"),
    ("tgi_batch_concat_duration", "histogram", "method", ("decode",), "D"),
]  # fmt: skip


@pytest.fixture(scope="module")
def exposition(live_server: LiveServer) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The families of `/metrics`, and the bounds of each set of buckets on this server."""
    live_server.post("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}})
    with urllib.request.urlopen(live_server.url + "/metrics", timeout=60) as response:
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    assert "_created" not in text
    assert not [line for line in text.splitlines() if line.split("{")[0].split(" ")[0].endswith("_total")]
    info = live_server.get("/info")
    sets = {
        "D": [0.0001 * 1.5**k for k in range(1, 36)],
        "I": [info["max_input_tokens"] / 100 * k for k in range(1, 101)],
        "T": [info["max_total_tokens"] / 100 * k for k in range(1, 101)],
        "B": [float(k) for k in range(1, 1025)],
        "S": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    }
    return {family.name: family for family in text_string_to_metric_families(text)}, sets


@pytest.mark.parametrize(("name", "kind", "label", "values", "buckets"), TABLE, ids=[row[0] for row in TABLE])
def test_a_series_of_tgi_is_as_the_contract_says(
    exposition: tuple[dict[str, Any], dict[str, list[float]]], name: str, kind: str, label: str,
    values: tuple[str, ...], buckets: str,
) -> None:  # fmt: skip
    families, sets = exposition
    family = families[name]
    assert family.type == kind
    assert family.documentation
    names = {
        "counter": {f"{name}_total"},  # so the parser calls it; the text itself has no such name (see above)
        "gauge": {name},
        "histogram": {f"{name}_bucket", f"{name}_sum", f"{name}_count"},
    }[kind]
    assert {sample.name for sample in family.samples} == names
    for sample in family.samples:
        labels = set(sample.labels) - {"le"}
        assert labels == ({label} if label else set())
    assert {sample.labels.get(label) for sample in family.samples} == (set(values) if values else {None})
    for value in values or (None,):
        bounds = [float(sample.labels["le"]) for sample in family.samples
                  if "le" in sample.labels and sample.labels.get(label) == value]  # fmt: skip
        if buckets == "S":
            assert bounds[: len(sets["S"])] == sets["S"]
        elif buckets:
            assert bounds == pytest.approx([*sets[buckets], float("inf")], rel=1e-9)
        assert not bounds or bounds[-1] == float("inf")
