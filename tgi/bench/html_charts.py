"""Charts as inline SVG: every mark has a title to hover over, every colour is a variable of the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

HUES = 8  # colours the page's style knows, as `--c0` to `--c7`
_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 14, 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point: where it lies, and what to say about it."""

    x: float
    y: float
    says: str
    label: str = ""  # written beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points that belong together."""

    name: str
    marks: Sequence[Mark]
    hue: int = 0
    dots: bool = True
    dashes: str = ""  # an SVG dash pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A ratio and its confidence interval."""

    name: str
    value: float
    low: float
    high: float
    better: str | None
    says: str


def short(value: float) -> str:
    """A figure for an axis or a card: three digits."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.3g}k" if abs(value) < 1e6 else f"{value / 1e6:,.3g}M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About `number` round values that cover `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def plot(
    title: str, across: str, up: str, series: Sequence[Series], *, names: Sequence[str] = (), zero: bool = True,
) -> str:  # fmt: skip
    """Lines and points. `names`: the x axis counts 0, 1, 2, ... and shows these; `zero`: the y axis begins there."""
    marks = [mark for one in series for mark in one.marks]
    if not marks:
        return ""
    ys = ticks(0.0 if zero else min(mark.y for mark in marks), max(mark.y for mark in marks) * 1.04)
    if names:
        xs, left, right = [float(n) for n in range(len(names))], -0.4, len(names) - 0.6
    else:
        xs = ticks(0.0, max(mark.x for mark in marks) * 1.04)
        left, right = xs[0], xs[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_frame(across, up)]
    for y in ys:
        _, at = place(left, y)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 8}" y="{at + 4:.1f}">{short(y)}</text>')
    every = max(1, math.ceil(len(names) / 9))
    for index, x in enumerate(xs):
        at, _ = place(x, ys[0])
        if not names:
            parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        if index % every == 0:
            words = _cut(names[index], 12) if names else short(x)
            parts.append(f'<text class="tick middle" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}">{escape(words)}</text>')
    for one in series:
        parts.append(_line(one, [place(mark.x, mark.y) for mark in one.marks]))
    return _figure(title, "".join(parts), [(one.name, one.hue, one.dashes) for one in series if one.name])


def bars(
    title: str, across: str, low: float, high: float, counts: Sequence[int], lines: Sequence[tuple[str, float]]
) -> str:
    """A histogram of equal bins from `low` to `high`, with named vertical lines."""
    if not counts or high <= low:
        return ""
    top = ticks(0.0, max(counts), 4)[-1]
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = [_frame(across, "count")]
    for y in ticks(0.0, max(counts), 4):
        at = _HEIGHT - _BOTTOM - y / top * height
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 8}" y="{at + 4:.1f}">{short(y)}</text>')
    for index, count in enumerate(counts):
        if count:
            size = count / top * height
            x, each = _LEFT + index * width / len(counts), width / len(counts)
            edges = [low + (index + side) * (high - low) / len(counts) for side in (0, 1)]
            says = f"{short(edges[0])} to {short(edges[1])}: {count}"
            parts.append(
                f'<rect class="bar" x="{x + 0.5:.1f}" y="{_HEIGHT - _BOTTOM - size:.1f}"'
                f' width="{max(0.5, each - 1):.1f}" height="{size:.1f}"><title>{escape(says)}</title></rect>'
            )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = _LEFT + share * width
        words = short(low + share * (high - low))
        parts.append(f'<text class="tick middle" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}">{words}</text>')
    for number, (name, value) in enumerate(lines):
        at = _LEFT + min(1.0, max(0.0, (value - low) / (high - low))) * width
        parts.append(
            f'<g class="{name}"><title>{name}: {short(value)}</title><path d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
            f'<text class="tick {"end" if at > _WIDTH - 60 else ""}" x="{at + (-4 if at > _WIDTH - 60 else 4):.1f}"'
            f' y="{_TOP + 10 + 13 * number}">{name}</text></g>'
        )
    return _figure(title, "".join(parts), [])


def levels(title: str, rows: Sequence[tuple[str, float, str, int]]) -> str:
    """Horizontal bars of percents: (name, percent, what to say, hue)."""
    if not rows:
        return ""
    height = 26 * len(rows) + 34
    end = _WIDTH - 60
    left = 168
    most = max(100.0, *(percent for _, percent, _, _ in rows))
    parts = [f'<path class="roof" d="M{left + 100 / most * (end - left):.1f} 6V{height - 26}"/>']
    for index, (name, percent, says, hue) in enumerate(rows):
        y = 8 + 26 * index
        size = max(1.0, percent / most * (end - left))
        parts.append(
            f"<g><title>{escape(says)}</title>"
            f'<text class="tick end" x="{left - 8}" y="{y + 14}">{escape(_cut(name, 24))}</text>'
            f'<rect class="track" x="{left}" y="{y}" width="{end - left}" height="19" rx="3"/>'
            f'<rect style="fill:var(--c{hue})" x="{left}" y="{y}" width="{size:.1f}" height="19" rx="3"/>'
            f'<text class="value" x="{end + 8}" y="{y + 14}">{percent:.1f} %</text></g>'
        )
    full = left + 100 / most * (end - left)
    parts.append(f'<text class="tick middle" x="{full:.1f}" y="{height - 10}">100 % of the roof</text>')
    return _figure(title, "".join(parts), [], height=height)


def intervals(title: str, rows: Sequence[Interval]) -> str:
    """Ratios with their confidence intervals on a logarithmic axis around 1."""
    rows = [row for row in rows if row.low > 0 and math.isfinite(row.high)]
    if not rows:
        return ""
    height, left, end = 26 * len(rows) + 44, 230, _WIDTH - 60
    reach = max(math.log(1.1), *(max(abs(math.log(row.low)), abs(math.log(row.high))) for row in rows)) * 1.1

    def place(value: float) -> float:
        return left + (math.log(value) + reach) / (2 * reach) * (end - left)

    parts = [f'<path class="roof" d="M{place(1.0):.1f} 6V{height - 34}"/>']
    for index, row in enumerate(rows):
        y = 18 + 26 * index
        kind = {"A": "worse", "B": "better"}.get(row.better or "", "even")
        parts.append(
            f'<g class="{kind}"><title>{escape(row.says)}</title>'
            f'<text class="tick end" x="{left - 8}" y="{y + 4}">{escape(_cut(row.name, 36))}</text>'
            f'<path class="span" d="M{place(row.low):.1f} {y}H{place(row.high):.1f}"/>'
            f'<circle cx="{place(row.value):.1f}" cy="{y}" r="4.5"/>'
            f'<text class="value" x="{end + 8}" y="{y + 4}">{row.value:.3f}</text></g>'
        )
    for value in (math.exp(-reach / 1.1), 1.0, math.exp(reach / 1.1)):
        parts.append(f'<text class="tick middle" x="{place(value):.1f}" y="{height - 18}">{value:.3g}</text>')
    parts.append(f'<text class="axis middle" x="{place(1.0):.1f}" y="{height - 3}">B / A</text>')
    return _figure(title, "".join(parts), [], height=height)


def _line(one: Series, places: Sequence[tuple[float, float]]) -> str:
    colour = f"var(--c{one.hue % HUES})"
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashes = f' stroke-dasharray="{one.dashes}"' if one.dashes else ""
    parts = [f'<path class="line" style="stroke:{colour}"{dashes} d="{path}"/>'] if len(places) > 1 else []
    for mark, (x, y) in zip(one.marks, places, strict=True):
        if one.dots:
            parts.append(
                f'<circle class="dot" style="fill:{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">'
                f"<title>{escape(mark.says)}</title></circle>"
            )
        if mark.label:
            end = x > _WIDTH - 90
            parts.append(
                f'<text class="name{" end" if end else ""}" x="{x + (-2 if end else 8):.1f}" y="{y + 17:.1f}">'
                f"{escape(_cut(mark.label, 18))}</text>"
            )
    if not one.dots:
        parts.append(f"<title>{escape(one.name)}</title>")
    return f"<g>{''.join(parts)}</g>"


def _frame(across: str, up: str) -> str:
    middle, centre = _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2, _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    return (
        f'<text class="axis middle" x="{centre}" y="{_HEIGHT - 8}">{escape(across)}</text>'
        f'<text class="axis middle" transform="rotate(-90 14 {middle})" x="14" y="{middle}">{escape(up)}</text>'
    )


def _figure(title: str, inside: str, legend: Sequence[tuple[str, int, str]], *, height: int = _HEIGHT) -> str:
    keys = "".join(
        f'<li><svg viewBox="0 0 22 10" aria-hidden="true"><path class="line" style="stroke:var(--c{hue % HUES})"'
        f'{f" stroke-dasharray={chr(34)}{dashes}{chr(34)}" if dashes else ""} d="M0 5H22"/></svg>{escape(name)}</li>'
        for name, hue, dashes in legend
    )
    listed = f'<ul class="legend">{keys}</ul>' if len(legend) > 1 else ""
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' aria-label="{escape(title)}">{inside}</svg>{listed}</figure>'
    )


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else words[: length - 1] + "…"
