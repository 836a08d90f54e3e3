"""Marks lie where their values are, axes have round numbers, and words are escaped."""

from __future__ import annotations

import re

import pytest

from tgi.bench.html_charts import Interval, Mark, Series, bars, intervals, levels, plot, short, ticks


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 7, [0, 2, 4, 6, 8]), (0, 0.3, [0, 0.1, 0.2, 0.3]), (5, 5, [5, 6])],
)
def test_ticks_are_round_and_cover_the_values(low: float, high: float, found: list[float]) -> None:
    marks = ticks(low, high)
    assert marks == pytest.approx(found)
    assert marks[0] <= low
    assert marks[-1] >= high


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0"), (0.1234, "0.123"), (99.9, "99.9"), (1234.0, "1,234"), (12345.0, "12.3k"),
                         (5e6, "5M"), (float("nan"), "–")],
)  # fmt: skip
def test_figures_have_three_digits(value: float, words: str) -> None:
    assert short(value) == words


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_points_lie_in_the_order_of_their_values() -> None:
    svg = plot("t", "x", "y", [Series(name="s", marks=[Mark(x=10, y=5, says="a<b"), Mark(x=20, y=50, says="c")])])
    (x1, y1), (x2, y2) = circles(svg)
    assert x1 < x2
    assert y1 > y2  # up is less in SVG
    assert "<title>a&lt;b</title>" in svg
    assert plot("t", "x", "y", [Series(name="s", marks=[])]) == ""


def test_the_bars_of_a_histogram_are_as_high_as_their_counts() -> None:
    svg = bars("t", "ms", 0.0, 10.0, [1, 4, 0], [("p50", 5.0)])
    heights = [float(height) for height in re.findall(r'width="[\d.]+" height="([\d.]+)"', svg)]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.01)
    assert "<title>p50: 5</title>" in svg
    assert bars("t", "ms", 1.0, 1.0, [3], []) == ""


def test_percents_and_intervals_say_their_values() -> None:
    svg = levels("t", [("decode", 32.7, "decode: 100 of 306", 1), ("more", 120.0, "x", 0)])
    assert "32.7 %" in svg
    assert levels("t", []) == ""
    rows = [Interval(name="n", value=1.1, low=1.05, high=1.2, better="B", says="why"),
            Interval(name="m", value=0.9, low=0.8, high=1.1, better=None, says="even")]  # fmt: skip
    svg = intervals("t", rows)
    assert 'class="better"' in svg
    assert 'class="even"' in svg
    (x1, _), (x2, _) = circles(svg)
    assert x1 > x2
    assert intervals("t", []) == ""
