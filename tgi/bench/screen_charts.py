"""The parts of the live screen: gauges, boxes of figures, histograms, scatters and lines of throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tgi.bench.screen_canvas import BOLD, CYAN, DIM, GREEN, HUES, RED, YELLOW, Canvas
from tgi.bench.screen_state import Tally

_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A box's contents; a rate has no percentiles."""

    mean: float
    low: float
    high: float
    percentiles: tuple[float, float, float] | None = None  # 50, 90, 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A load step among the others: `number` counts from 1 and chooses the colour."""

    x: float
    y: float
    number: int
    done: bool = True
    chosen: bool = False


def amount(value: float) -> str:
    """A figure in at most seven characters: `0.12`, `12.3`, `1,234`, `12.3k`."""
    if not math.isfinite(value):
        return "-"
    if value >= 99_999.5:
        return f"{value / 1e6:.1f}M" if value >= 999_950 else f"{value / 1e3:.0f}k"
    return f"{value:.2f}" if value < 99.995 else f"{value:.1f}" if value < 999.95 else f"{value:,.0f}"


def gauge(canvas: Canvas, x: int, y: int, width: int, title: str, share: float, words: str, style: str) -> None:
    """One line: a title, a bar that is `share` full, and words."""
    head = f"{title:<15}"
    tail = f"{100 * share:>4.0f} %  {words}"
    room = max(4, width - len(head) - max(len(tail), 22) - 2)
    whole, part = divmod(round(max(0.0, min(1.0, share)) * room * 8), 8)
    bar = "█" * whole + ("▏▎▍▌▋▊▉"[part - 1] if part else "")
    canvas.text(x, y, head, BOLD)
    canvas.text(x + len(head), y, "─" * room, DIM)
    canvas.text(x + len(head), y, bar, style)
    canvas.text(x + len(head) + room + 1, y, tail)


def figures_box(canvas: Canvas, x: int, y: int, width: int, height: int, title: str, found: Figures | None) -> None:
    """Average, Lowest and Highest, and p50 green, p90 yellow, p99 red where there are percentiles."""
    canvas.box(x, y, width, height, title)
    if found is None:
        canvas.text(x + 2, y + 1, "no value yet", DIM, room=width - 4)
        return
    names = ("Average", "Lowest", "Highest") if width >= 19 else ("Avg", "Low", "High")
    rows = [(name, value, "") for name, value in zip(names, (found.mean, found.low, found.high), strict=True)]
    if found.percentiles is not None:
        rows += zip(("p50", "p90", "p99"), found.percentiles, (GREEN, YELLOW, RED), strict=True)
    pad = 2 if width >= 15 else 1
    for index, (name, value, style) in enumerate(rows[: height - 2]):
        canvas.text(x + pad, y + 1 + index, name, style)
        canvas.right(x + width - pad, y + 1 + index, amount(value), style)


def histogram(
    canvas: Canvas, x: int, y: int, width: int, height: int, title: str, tally: Tally | None, *, edge: float
) -> None:
    """How often which latency (ms) was seen, up to percentile `edge`: green to p50, yellow to p90, red above."""
    canvas.box(x, y, width, height, title)
    inner, rows = width - 4, height - 3
    if tally is None or not tally.count or inner < 4 or rows < 1:
        canvas.text(x + 2, y + 1, "no value yet", DIM, room=inner)
        return
    low, high = tally.low, max(tally.percentile(edge), tally.low)
    if high <= low:
        high = low + max(low * 0.01, 0.01)
    number = min(inner, max(6, round(2.5 * math.sqrt(tally.count))))  # few values make few, wide bars
    bins = tally.bins(number, low, high)
    middle, most, top = tally.percentile(50), tally.percentile(90), max(bins) or 1
    for column in range(inner):
        index = column * number // inner
        start = low + index * (high - low) / number
        style = GREEN if start <= middle else YELLOW if start <= most else RED
        eighths = math.ceil(bins[index] / top * rows * 8)
        for row in range(rows):
            filled = min(8, eighths - row * 8)
            if filled <= 0:
                break
            canvas.text(x + 2 + column, y + height - 3 - row, _EIGHTHS[filled], style)
    canvas.text(x + 2, y + height - 2, amount(low), DIM)
    canvas.right(x + width - 2, y + height - 2, f"{amount(high)} ms", DIM)
    if width >= len(title) + 18:
        canvas.right(x + width - 2, y, f" max {top} ", DIM)


def scatter(
    canvas: Canvas, x: int, y: int, width: int, height: int, title: str, points: Sequence[Point], *, zoom: int = 0
) -> None:
    """A coloured, numbered point a step: throughput (tokens/s) over latency (ms), `zoom` around the chosen one."""
    canvas.box(x, y, width, height, title)
    inner, rows = width - 4 - 8, height - 3
    points = [point for point in points if point.x > 0 and point.y > 0]
    if not points or inner < 6 or rows < 2:
        canvas.text(x + 2, y + 1, "no value yet", DIM, room=width - 4)
        return
    left, right = _span([point.x for point in points])
    bottom, top = _span([point.y for point in points])
    if zoom:
        centre = next((point for point in points if point.chosen), points[-1])
        left, right = _zoomed(left, right, centre.x, zoom)
        bottom, top = _zoomed(bottom, top, centre.y, zoom)
    for row in range(rows):
        canvas.text(x + 9, y + 1 + row, "┤" if row in (0, rows - 1) else "│", DIM)
    canvas.right(x + 9, y + 1, amount(top), DIM)
    canvas.right(x + 9, y + rows, amount(bottom), DIM)
    if rows > 4:
        canvas.text(x + 2, y + 2, "tok/s", DIM)
    canvas.text(x + 10, y + height - 2, amount(left), DIM)
    canvas.right(x + width - 2, y + height - 2, f"{amount(right)} ms", DIM)
    for point in sorted(points, key=lambda point: point.chosen):
        if not (left <= point.x <= right and bottom <= point.y <= top):
            continue
        column = x + 10 + round((point.x - left) / (right - left) * (inner - 3))
        row = y + rows - round((point.y - bottom) / (top - bottom) * (rows - 1))
        hue = HUES[(point.number - 1) % len(HUES)]
        canvas.text(column, row, f"{'●' if point.done else '○'}{point.number}", f"1;{hue}" if point.chosen else hue)


def sparkline(canvas: Canvas, x: int, y: int, width: int, values: Sequence[float]) -> None:
    """The last `width` values, one column each."""
    shown = values[-width:]
    top = max(shown, default=0.0)
    if top > 0:
        line = "".join(_EIGHTHS[min(8, max(1, math.ceil(8 * value / top))) if value > 0 else 0] for value in shown)
        canvas.text(x, y, line, CYAN)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest, with room around, so that no point lies on an edge."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or high * 0.1
    return max(0.0, low - room), high + room


def _zoomed(low: float, high: float, centre: float, zoom: int) -> tuple[float, float]:
    half = (high - low) / 2 ** (zoom + 1)
    return max(0.0, centre - half), centre + half
