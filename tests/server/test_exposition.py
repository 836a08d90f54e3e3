"""The text Prometheus reads, against its own parser."""

from __future__ import annotations

import random
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tgi.server.exposition import Registry, number

BOUNDS = (0.0001, 0.5, 1.0, 2.0, 1e6)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, with bounds as numbers."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {key: str(float(value)) if key == "le" else value for key, value in sample.labels.items()}
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


def test_observations_are_counted_as_the_reference_counts_them() -> None:
    ours, theirs = Registry(), prometheus_client.CollectorRegistry()
    mine = ours.histograms("h", "help", BOUNDS, "method", ("a", "b"), "s")
    reference: Any = prometheus_client.Histogram("h", "help", ["method"], registry=theirs, buckets=BOUNDS)
    generator = random.Random(0)
    for _ in range(500):
        value = generator.choice([*BOUNDS, generator.uniform(0, 3), -1.0, 2e6])
        label = generator.choice("ab")
        mine.labels(label).observe(value)
        reference.labels(label).observe(value)
        if generator.random() < 0.05:
            ours.render()  # a scrape in between changes nothing
    expected = samples(prometheus_client.generate_latest(theirs).decode())
    expected = {key: value for key, value in expected.items() if not key[0].endswith("_created")}
    assert samples(ours.render().decode()) == pytest.approx(expected)


def test_counters_and_gauges_are_called_what_they_are_called() -> None:
    registry = Registry()
    registry.counter("requests", "all of them").inc()
    registry.gauge("size", "now").set(2.5)
    failures = registry.counters("failures", "some", "err", ("a", "b"))
    failures.labels("b").inc(3)
    assert registry.render().decode() == (
        "# HELP requests all of them\n# TYPE requests counter\nrequests 1\n"
        "# HELP size now\n# TYPE size gauge\nsize 2.5\n"
        '# HELP failures some\n# TYPE failures counter\nfailures{err="a"} 0\nfailures{err="b"} 3\n'
    )


def test_a_label_has_the_values_it_was_made_with() -> None:
    failures = Registry().counters("failures", "some", "err", ("a", "b"))
    with pytest.raises(KeyError):
        failures.labels("c")


def test_what_did_not_change_is_not_written_again() -> None:
    registry = Registry()
    one, other = (registry.histogram(name, "", BOUNDS) for name in ("one", "other"))
    registry.render()
    before = one.text(), other.text()
    one.observe(1)
    assert one.text() is not before[0]
    assert other.text() is before[1]


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (0, "0"), (0.5, "0.5"), (1e-05, "1e-05"), (1e22, "1e+22")])
def test_numbers_are_as_short_as_they_can_be(value: float, text: str) -> None:
    assert number(value) == text
