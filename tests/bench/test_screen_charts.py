"""Charts show the values they are given, at the place and in the colour that belongs to them."""

from __future__ import annotations

import pytest

from tgi.bench.screen_canvas import GREEN, Canvas
from tgi.bench.screen_charts import Figures, Point, amount, figures_box, gauge, histogram, scatter, sparkline
from tgi.bench.screen_state import Tally


def drawn(canvas: Canvas) -> list[str]:
    return ["".join(row) for row in canvas._characters]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0.00"), (9.999, "10.00"), (99.999, "100.0"), (999.97, "1,000"), (12345.6, "12,346"), (123456.0, "123k"),
     (999_960.0, "1.0M"), (float("inf"), "-")],
)  # fmt: skip
def test_an_amount_takes_at_most_seven_characters(value: float, words: str) -> None:
    assert amount(value) == words
    assert len(words) <= 7


@pytest.mark.parametrize(("share", "full"), [(0.0, 0), (0.5, 11), (1.0, 21)])
def test_a_gauge_is_as_full_as_its_share(share: float, full: int) -> None:
    canvas = Canvas(60, 1)
    gauge(canvas, 0, 0, 60, "Total Progress", share, "2/4 steps", GREEN)
    (row,) = drawn(canvas)
    assert abs(row.count("█") - full) <= 1
    assert f"{100 * share:.0f} %  2/4 steps" in row


def test_a_box_shows_six_figures_and_a_rate_three() -> None:
    canvas = Canvas(20, 8)
    figures_box(canvas, 0, 0, 20, 8, "TTFT (ms)", Figures(mean=1.0, low=0.5, high=2.0, percentiles=(0.9, 1.8, 1.9)))
    rows = drawn(canvas)
    assert [row[2:18].split() for row in rows[1:7]] == [
        ["Average", "1.00"], ["Lowest", "0.50"], ["Highest", "2.00"], ["p50", "0.90"], ["p90", "1.80"], ["p99", "1.90"],
    ]  # fmt: skip
    canvas = Canvas(20, 8)
    figures_box(canvas, 0, 0, 20, 8, "x", Figures(mean=1.0, low=0.5, high=2.0))
    assert sum("." in row for row in drawn(canvas)) == 3
    canvas = Canvas(20, 8)
    figures_box(canvas, 0, 0, 20, 8, "x", None)
    assert "no value yet" in drawn(canvas)[1]


def test_a_histogram_is_highest_where_most_values_are() -> None:
    tally = Tally()
    for value in [10.0] * 90 + [20.0] * 9 + [30.0]:
        tally.add(value)
    canvas = Canvas(30, 10)
    histogram(canvas, 0, 0, 30, 10, "x", tally, edge=100.0)
    heights = ["".join(row[x] for row in drawn(canvas)[1:8]).count("█") for x in range(2, 28)]
    assert heights[0] == 7
    assert heights[0] == max(heights)
    assert canvas._styles[7][2] == GREEN
    assert "10.00" in drawn(canvas)[8]
    assert "30.00 ms" in drawn(canvas)[8]
    zoomed = Canvas(30, 10)
    histogram(zoomed, 0, 0, 30, 10, "x", tally, edge=95.0)
    assert "30.00" not in drawn(zoomed)[8]


def test_points_lie_where_their_values_are() -> None:
    canvas = Canvas(50, 12)
    points = [Point(x=10.0, y=100.0, number=1), Point(x=100.0, y=400.0, number=2, done=False, chosen=True)]
    scatter(canvas, 0, 0, 50, 12, "x", points)
    places = {row[x : x + 2]: (x, y) for y, row in enumerate(drawn(canvas)) for x in range(48) if row[x] in "●○"}
    assert set(places) == {"●1", "○2"}
    assert places["○2"][0] > places["●1"][0]
    assert places["○2"][1] < places["●1"][1]
    zoomed = Canvas(50, 12)
    scatter(zoomed, 0, 0, 50, 12, "x", points, zoom=3)
    assert "○2" in "".join(drawn(zoomed))
    assert "●1" not in "".join(drawn(zoomed))


def test_a_line_of_throughput_shows_the_last_values() -> None:
    canvas = Canvas(4, 1)
    sparkline(canvas, 0, 0, 4, [9.0, 0.0, 1.0, 4.0, 8.0])
    assert drawn(canvas) == [" ▁▄█"]
