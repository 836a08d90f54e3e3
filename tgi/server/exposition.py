"""Counters, gauges and histograms, and their text for Prometheus.

Written for one thread, the event loop's: no locks, and what did not change since the last scrape is not written again,
so that thousands of buckets cost a scrape next to nothing. A counter is called what it is called: TGI's have no
`_total`, which the usual client library would append, and no `_created` beside them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

Kind = Literal["counter", "gauge", "histogram"]


class Counter:
    """A number that only grows."""

    def __init__(self, name: str, labels: str) -> None:
        self._head = f"{name}{{{labels}}}" if labels else name
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add to it."""
        self.value += amount

    def text(self) -> str:
        """Its line."""
        return f"{self._head} {number(self.value)}\n"


class Gauge(Counter):
    """A number that goes up and down."""

    def set(self, value: float) -> None:
        """Replace it."""
        self.value = value


class Histogram:
    """How many observations were at most as large as each of its bounds, which grow, and their sum."""

    def __init__(self, name: str, labels: str, bounds: Sequence[float]) -> None:
        first = f"{labels}," if labels else ""
        tail = f"{{{labels}}}" if labels else ""
        self._bounds = tuple(bounds)
        self._heads = [f'{name}_bucket{{{first}le="{number(bound)}"}} ' for bound in self._bounds]
        self._heads.append(f'{name}_bucket{{{first}le="+Inf"}} ')
        self._sum_head, self._count_head = f"{name}_sum{tail} ", f"{name}_count{tail} "
        self._counts = [0] * len(self._heads)
        self._text: str | None = None
        self.sum: float = 0
        self.count = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value
        self.count += 1
        self._text = None

    def text(self) -> str:
        """Its lines."""
        if self._text is None:
            total, parts = 0, []
            for head, count in zip(self._heads, self._counts, strict=True):
                total += count
                parts.append(f"{head}{total}\n")
            parts.append(f"{self._sum_head}{number(self.sum)}\n{self._count_head}{total}\n")
            self._text = "".join(parts)
        return self._text


Series = TypeVar("Series", bound=Counter | Gauge | Histogram)


class Labelled(Generic[Series]):
    """The series of one name, by the value of its label; the values are a closed set, and all exist from the start."""

    def __init__(self, series: dict[str, Series]) -> None:
        self._series = series

    def labels(self, value: str) -> Series:
        """The series of one value. Raises: KeyError for a value outside the set."""
        return self._series[value]


class Family:
    """All series of one name, and what there is to know about them."""

    def __init__(self, kind: Kind, name: str, help: str, unit: str, section: str, label: str) -> None:
        self.kind: Kind = kind
        self.name = name
        self.help = help
        self.unit = unit  # "s", "tokens", "bytes", ...
        self.section = section  # what it is about; a row of the dashboard
        self.label = label  # the name of its label, "" without one
        self.values: tuple[str, ...] = ()
        self.series: list[Counter | Gauge | Histogram] = []

    def text(self) -> Iterator[str]:
        """Its lines, comments first."""
        yield f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n"
        for series in self.series:
            yield series.text()


class Registry:
    """All families of a server, in the order they were made."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self._section = ""

    def section(self, title: str) -> None:
        """What the families to follow are about."""
        self._section = title

    def counter(self, name: str, help: str, unit: str = "") -> Counter:
        """A counter without labels."""
        return self._one("counter", name, help, unit, lambda labels: Counter(name, labels))

    def counters(self, name: str, help: str, label: str, values: Sequence[str], unit: str = "") -> Labelled[Counter]:
        """Counters, one a value of a label."""
        return self._many("counter", name, help, unit, label, values, lambda labels: Counter(name, labels))

    def gauge(self, name: str, help: str, unit: str = "") -> Gauge:
        """A gauge without labels."""
        return self._one("gauge", name, help, unit, lambda labels: Gauge(name, labels))

    def gauges(self, name: str, help: str, label: str, values: Sequence[str], unit: str = "") -> Labelled[Gauge]:
        """Gauges, one a value of a label."""
        return self._many("gauge", name, help, unit, label, values, lambda labels: Gauge(name, labels))

    def histogram(self, name: str, help: str, bounds: Sequence[float], unit: str = "") -> Histogram:
        """A histogram without labels."""
        return self._one("histogram", name, help, unit, lambda labels: Histogram(name, labels, bounds))

    def histograms(
        self, name: str, help: str, bounds: Sequence[float], label: str, values: Sequence[str], unit: str = ""
    ) -> Labelled[Histogram]:
        """Histograms, one a value of a label."""
        return self._many(
            "histogram", name, help, unit, label, values, lambda labels: Histogram(name, labels, bounds)
        )  # fmt: skip

    def render(self) -> bytes:
        """Every series in Prometheus' text format 0.0.4."""
        return "".join(text for family in self.families for text in family.text()).encode()

    def _one(self, kind: Kind, name: str, help: str, unit: str, make: Callable[[str], Series]) -> Series:
        family = Family(kind, name, help, unit, self._section, "")
        series = make("")
        family.series.append(series)
        self.families.append(family)
        return series

    def _many(
        self, kind: Kind, name: str, help: str, unit: str, label: str, values: Sequence[str],
        make: Callable[[str], Series],
    ) -> Labelled[Series]:  # fmt: skip
        family = Family(kind, name, help, unit, self._section, label)
        family.values = tuple(values)
        series = {value: make(f'{label}="{value}"') for value in values}
        family.series.extend(series.values())
        self.families.append(family)
        return Labelled(series)


def number(value: float) -> str:
    """The shortest decimal of a number: `1`, `0.5`, `1e-05`."""
    return repr(value).removesuffix(".0")
