"""The live screen as a picture of the state: what goes where, at any size from 60x20 on."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.bench.results import Distribution
from tgi.bench.screen_canvas import BLUE, BOLD, DIM, GREEN, PLAIN, RED, REVERSE, YELLOW, Canvas
from tgi.bench.screen_charts import Figures, Point, amount, figures_box, gauge, histogram, scatter, sparkline
from tgi.bench.screen_state import ZOOMS, State, StepView

LOWEST = (60, 20)
_HEAD = 4  # title, tabs, two gauges
_BOX = 8  # six figures and the frame
_KEYS = (
    "→/Tab next  ← previous  + zoom  - unzoom  p pause  q quit",
    "→ next  ← prev  + - zoom  p pause  q quit",
    "→← tab  +- zoom  p pause  q quit",
)
_STREAM_BOXES = ("TTFT", "Inter-token", "End to end")
_SHORT = {
    "TTFT": "TTFT ms", "Inter-token": "ITL ms", "End to end": "E2E ms", "Prefill Latency": "Prefill",
    "Prefill Throughput": "Pref/s", "Decode Total Latency": "Decode", "Decode Token Latency": "Token",
    "Decode Throughput": "Dec/s",
}  # fmt: skip
_BATCH_BOXES = (
    "Prefill Latency", "Prefill Throughput", "Decode Total Latency", "Decode Token Latency", "Decode Throughput",
)  # fmt: skip


def draw(state: State, width: int, height: int) -> Canvas:
    """The whole screen. Smaller than 60x20 there is only a line that asks for more room."""
    canvas = Canvas(width, height)
    if width < LOWEST[0] or height < LOWEST[1]:
        canvas.text(0, 0, f"{width}x{height} is too small: {LOWEST[0]}x{LOWEST[1]} at least", BOLD)
        canvas.text(0, 1, "q quits", DIM)
        return canvas
    _title(canvas, state)
    _tabs(canvas, state)
    share, words, failed = state.total()
    gauge(canvas, 0, 2, width, "Total Progress", share, words, RED if failed else GREEN)
    step = state.steps.get(state.tab)
    if step is None:
        canvas.text(2, _HEAD + 1, "waiting for the first step", DIM)
        return canvas
    share, words = step.progress()
    name = "Batch Progress" if step.is_batch else "Step Progress"
    gauge(canvas, 0, 3, width, name, share, words, RED if step.failed else BLUE)
    rest = height - _HEAD - _BOX
    _boxes(canvas, step, _HEAD)
    # Low screens have no room for both: the histograms make way for what compares the steps.
    charts = rest // 2 if rest >= 12 else 0
    if charts:
        _histograms(canvas, state, step, _HEAD + _BOX, charts)
    _bottom(canvas, state, step, _HEAD + _BOX + charts, rest - charts)
    return canvas


def _title(canvas: Canvas, state: State) -> None:
    notes = [
        "paused" if state.paused else "",
        f"zoom {state.zoom}" if state.zoom else "",
        "interrupted" if state.interrupted else "done" if state.over else "",
    ]
    mark = "  ".join(f"[{note}]" for note in notes if note)
    title = state.plan.title if state.plan else "starting"
    # The keys may take more than half of the line where the title leaves it, and never more where it does not.
    spare = max(canvas.width - len(title) - len(mark) - 4, canvas.width * 55 // 100)
    keys = next((k for k in _KEYS if len(k) <= spare), _KEYS[-1])
    room = canvas.width - len(keys) - 2
    canvas.text(0, 0, title, BOLD, room=room - len(mark) - 2 if mark else room)
    if mark:
        canvas.text(min(len(title), room - len(mark) - 2) + 2, 0, mark, YELLOW)
    canvas.right(canvas.width, 0, keys, DIM)


def _tabs(canvas: Canvas, state: State) -> None:
    """One tab a step; where they do not all fit, those around the shown one."""
    numbers = sorted(state.steps)
    if not numbers:
        return
    words = {number: f" {_mark(state.steps[number])} {state.label(state.steps[number])} " for number in numbers}
    place = numbers.index(state.tab) if state.tab in numbers else 0
    first, room = place, canvas.width - 10 - len(words[numbers[place]])
    while first > 0 and room - len(words[numbers[first - 1]]) - 1 > 0:
        first -= 1
        room -= len(words[numbers[first]]) + 1
    canvas.text(0, 1, "Tabs", BOLD)
    x = 5
    if first:
        canvas.text(x, 1, "‹", DIM)
    x += 1
    for number in numbers[first:]:
        text = words[number]
        if x + len(text) > canvas.width - 1:
            canvas.text(canvas.width - 1, 1, "›", DIM)
            break
        step = state.steps[number]
        style = REVERSE if number == state.tab else RED if step.failed else PLAIN if step.started else DIM
        canvas.text(x, 1, text, style)
        x += len(text)
        if number != numbers[-1]:
            canvas.text(x, 1, "│", DIM)
            x += 1


def _mark(step: StepView) -> str:
    return "✓" if step.result is not None else "▸" if step.started else "·"


def _split(total: int, parts: int) -> list[tuple[int, int]]:
    """(offset, width) of `parts` neighbours that fill `total` columns."""
    edges = [total * index // parts for index in range(parts + 1)]
    return [(edges[index], edges[index + 1] - edges[index]) for index in range(parts)]


def _boxes(canvas: Canvas, step: StepView, y: int) -> None:
    names = _BATCH_BOXES if step.is_batch else _STREAM_BOXES
    spans = _split(canvas.width, len(names) + (not step.is_batch))
    for name, (x, width) in zip(names, spans, strict=False):
        unit = "tok/s" if "Throughput" in name else "ms"
        title = f"{name} ({unit})"
        figures_box(canvas, x, y, width, _BOX, title if len(title) + 6 <= width else _SHORT[name], _figures(step, name))
    if not step.is_batch:
        _throughput(canvas, step, *spans[-1], y)


def _throughput(canvas: Canvas, step: StepView, x: int, width: int, y: int) -> None:
    canvas.box(x, y, width, _BOX, "Throughput")
    summary, sample = step.result.summary if step.result else None, step.sample
    requests = summary.request_rate if summary else step.completed / sample.at_s if sample and sample.at_s > 0 else 0.0
    names = ("tokens/s", "requests/s") if width >= 21 else ("tok/s", "req/s")
    rows = [(names[0], amount(step.token_rate)), (names[1], amount(requests))]
    if step.rates:
        rows += [("low", amount(min(step.rates))), ("high", amount(max(step.rates)))]
    if summary and summary.good_rate is not None:
        rows.append(("good/s", amount(summary.good_rate)))
    for index, (name, value) in enumerate(rows):
        canvas.text(x + 2, y + 1 + index, name, DIM if index > 1 else PLAIN)
        canvas.right(x + width - 2, y + 1 + index, value, DIM if index > 1 else BOLD)
    sparkline(canvas, x + 2, y + _BOX - 2, width - 4, step.rates)


def _figures(step: StepView, name: str) -> Figures | None:
    """A box's contents: the result's exact figures once there are some, the running tally's until then."""
    exact = _distribution(step, name)
    rate = "Throughput" in name
    if exact is not None:
        marks = None if rate else (exact.p50, exact.p90, exact.p99)
        return Figures(mean=exact.mean, low=exact.min, high=exact.max, percentiles=marks)
    tally = step.tallies.get(name)
    if tally is None or not tally.count:
        return None
    marks = None if rate else (tally.percentile(50), tally.percentile(90), tally.percentile(99))
    return Figures(mean=tally.mean, low=tally.low, high=tally.high, percentiles=marks)


def _distribution(step: StepView, name: str) -> Distribution | None:
    if step.result is None:
        return None
    summary, batch = step.result.summary, step.result.batch
    found = {"TTFT": summary.ttft_ms, "Inter-token": summary.itl_ms, "End to end": summary.e2e_ms}
    if batch is not None:
        exact = (batch.prefill_ms, batch.prefill_rate, batch.decode_total_ms, batch.decode_token_ms, batch.decode_rate)
        found |= dict(zip(_BATCH_BOXES, exact, strict=True))
    return found.get(name)


def _histograms(canvas: Canvas, state: State, step: StepView, y: int, height: int) -> None:
    names = ("Prefill Latency", "Decode Total Latency") if step.is_batch else _STREAM_BOXES
    edge = ZOOMS[state.zoom]
    suffix = f" to p{edge:g}" if edge < 100 else ""
    for name, (x, width) in zip(names, _split(canvas.width, len(names)), strict=True):
        histogram(canvas, x, y, width, height, f"{name}{suffix}", step.tallies.get(name), edge=edge)


def _bottom(canvas: Canvas, state: State, step: StepView, y: int, height: int) -> None:
    """Scatters that compare the steps; beside them what the client and the server counted."""
    if step.is_batch:
        (x, width), (x2, width2) = _split(canvas.width, 2)
        for left, room, phase in ((x, width, "Prefill"), (x2, width2, "Decode Token")):
            points = _points(state, f"{phase} Latency", f"{phase.split()[0]} Throughput")
            title = f"{phase.split()[0]} throughput over latency"
            scatter(canvas, left, y, room, height, title, points, zoom=state.zoom)
        return
    parts = _split(canvas.width, 3 if canvas.width >= 110 else 2)
    for (x, width), name in zip(parts[:-1], ("TTFT", "Inter-token"), strict=False):
        title = f"Throughput over {name}" + (" p50, tokens/s over ms" if width >= 52 else "")
        scatter(canvas, x, y, width, height, title, _points(state, name, None), zoom=state.zoom)
    _counts(canvas, step, *parts[-1], y, height)


def _points(state: State, latency: str, rate: str | None) -> list[Point]:
    found = []
    for number, step in sorted(state.steps.items()):
        across, up = _figures(step, latency), _figures(step, rate) if rate else None
        if across is not None:
            x = across.percentiles[0] if across.percentiles else across.mean
            y = up.mean if up else 0.0 if rate else step.token_rate
            done = step.result is not None
            found.append(Point(x=x, y=y, number=number + 1, done=done, chosen=number == state.tab))
    return found


def _counts(canvas: Canvas, step: StepView, x: int, width: int, y: int, height: int) -> None:
    """Requests and errors as the client counts them, then what the server says of itself."""
    canvas.box(x, y, width, height, "Client and server")
    sample = step.sample
    rows: list[tuple[str, str, str]] = [
        ("completed", str(step.completed), GREEN),
        ("failed", str(step.failed), RED if step.failed else DIM),
        ("in flight", str(sample.in_flight if sample and step.result is None else 0), PLAIN),
    ]
    rows += [(f"  {kind}", str(count), RED) for kind, count in step.errors.most_common(3)]
    rows += [(f"server {name}", value, PLAIN) for name, value in _server(step)]
    for index, (name, value, style) in enumerate(rows[: height - 2]):
        canvas.text(x + 2, y + 1 + index, name, room=width - 5 - len(value))
        canvas.right(x + width - 2, y + 1 + index, value, style)


def _server(step: StepView) -> Sequence[tuple[str, str]]:
    """Gauges while the step runs; afterwards what the server's histograms and counters gained."""
    if step.result is not None and (step.result.server.means or step.result.server.counters):
        server = step.result.server
        means = [(f"{_short(name)} mean", f"{amount(1000 * value)} ms") for name, value in server.means.items()
                 if name.endswith("_duration")]  # fmt: skip
        others = [(f"{_short(name)} mean", amount(value)) for name, value in server.means.items()
                  if not name.endswith("_duration")]  # fmt: skip
        return [*means, *others, *((_short(name), amount(value)) for name, value in server.counters.items())]
    if step.sample is None or not step.sample.server:
        return [("tells nothing", "")]
    return [(_short(name), amount(value)) for name, value in step.sample.server.items()]


def _short(name: str) -> str:
    return name.removeprefix("tgi_").removesuffix("_duration").replace("_", " ")
