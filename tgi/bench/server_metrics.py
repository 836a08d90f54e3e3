"""What a server's `/metrics` says: gauges now, counters and histograms over a step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp

from tgi.bench.results import ServerMetrics

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$")
_BOUND = re.compile(r'(?:^|,)le="([^"]*)"')
_TIMEOUT = aiohttp.ClientTimeout(total=5)


@dataclass(frozen=True, slots=True)
class Exposition:
    """One scrape. Series of one name with other labels are added up."""

    counters: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, Mapping[float, float]] = field(default_factory=dict)  # histogram -> bound -> values up to it
    sums: Mapping[str, float] = field(default_factory=dict)


def parse(text: str) -> Exposition:
    """A scrape in Prometheus' text format; lines that are none of it are left out."""
    kinds: dict[str, str] = {}
    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            words = line.split()
            if len(words) == 4:
                kinds[words[2]] = words[3]
            continue
        found = _LINE.match(line)
        if not found:
            continue
        name, labels, value = found[1], found[2] or "", _number(found[3])
        if math.isnan(value):
            continue
        if name.endswith("_bucket") and kinds.get(name.removesuffix("_bucket")) == "histogram":
            bound = _BOUND.search(labels)
            series = buckets.setdefault(name.removesuffix("_bucket"), {})
            limit = _number(bound[1]) if bound else math.inf
            series[limit] = series.get(limit, 0.0) + value
        elif name.endswith("_sum") and kinds.get(name.removesuffix("_sum")) == "histogram":
            sums[name.removesuffix("_sum")] = sums.get(name.removesuffix("_sum"), 0.0) + value
        elif kinds.get(name) == "counter" or kinds.get(name.removesuffix("_total")) == "counter":
            counters[name] = counters.get(name, 0.0) + value
        elif kinds.get(name) == "gauge":
            gauges[name] = gauges.get(name, 0.0) + value
    return Exposition(counters, gauges, buckets, sums)


def between(before: Exposition, after: Exposition) -> ServerMetrics:
    """What happened between two scrapes. Only what changed is told."""
    counters = {
        name: change for name, value in after.counters.items() if (change := value - before.counters.get(name, 0.0)) > 0
    }
    means: dict[str, float] = {}
    p50: dict[str, float] = {}
    p99: dict[str, float] = {}
    for name, series in after.buckets.items():
        earlier = before.buckets.get(name, {})
        counts = {bound: value - earlier.get(bound, 0.0) for bound, value in sorted(series.items())}
        count = max(counts.values(), default=0.0)
        if count > 0:
            means[name] = (after.sums.get(name, 0.0) - before.sums.get(name, 0.0)) / count
            p50[name], p99[name] = _quantile(counts, 0.5), _quantile(counts, 0.99)
    return ServerMetrics(counters=counters, means=means, p50=p50, p99=p99)


async def scrape(session: aiohttp.ClientSession, base: str, headers: Mapping[str, str]) -> Exposition | None:
    """The server's `/metrics`; None where it has none."""
    try:
        async with session.get(f"{base}/metrics", headers=headers, timeout=_TIMEOUT) as response:
            if response.status != 200:
                return None
            return parse(await response.text(errors="replace"))
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        return None


def _quantile(buckets: Mapping[float, float], q: float) -> float:
    """As Prometheus' histogram_quantile: linear within the bucket; the last finite bound where it is beyond."""
    rank = q * max(buckets.values())
    for (low, below), (high, upto) in pairwise([(0.0, 0.0), *buckets.items()]):
        if upto >= rank and upto > below:
            return low if math.isinf(high) else low + (high - low) * (rank - below) / (upto - below)
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
