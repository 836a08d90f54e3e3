"""From samples to ratios, and from ratios to the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: newest of benchmarks/results, by python -m benchmarks.peers -->", "<!-- figures end -->"
RESULTS = Path(__file__).parents[1] / "results"

_LLAMA = ("llama Q4_0", "llama Q4_1", "llama Q8_0")
# "tgi Q4_1" is exact on these weights, "tgi Q4_1 int8" the same with `--quantize int8`.
_QUANTISED = ("tgi Q4_1", "tgi Q4_1 int8", "tgi int8")
OURS = (*_QUANTISED, "tgi f16")
PEERS = (*_LLAMA, "llama F16", "OpenVINO int8", "OpenVINO fp32")
DEFAULT = ("tgi Q4_1",)

Samples = dict[tuple[str, str], list[float]]  # (program, figure) -> one value a round


@dataclass(frozen=True)
class Row:
    """One cell of issue 4's table: a figure of ours, against a peer's or by itself."""

    label: str
    figure: str
    ours: Sequence[str]
    peers: Sequence[str]  # none: our figure itself is judged
    must: float
    reach: float
    unit: str = "x"
    more_is_better: bool = True


ROWS = (
    Row("1 stream, decode, best quantised", "decode_1", _QUANTISED, (*_LLAMA, "OpenVINO int8"), 1.3, 1.8),
    Row("8 streams, total, best quantised", "total_8", _QUANTISED, (*_LLAMA, "OpenVINO int8"), 1.6, 2.3),
    Row("32 streams, total, best quantised", "total_32", _QUANTISED, (*_LLAMA, "OpenVINO int8"), 1.3, 2.0),
    Row("the default Q4_1 file, 1 stream", "decode_1", DEFAULT, ("llama Q4_1",), 1.4, 2.0),
    Row("the default Q4_1 file, 32 streams", "total_32", DEFAULT, ("llama Q4_1",), 3.0, 4.0),
    Row("16-bit exact, 1 stream", "decode_1", ("tgi f16",), ("llama F16",), 1.0, 1.3),
    Row("16-bit exact, 8 streams", "total_8", ("tgi f16",), ("llama F16",), 1.2, 1.5),
    Row("16-bit exact, 32 streams", "total_32", ("tgi f16",), ("llama F16",), 1.4, 2.0),
    Row("time to first token, prompt 128", "ttft_128_ms", OURS, PEERS, 1.0, 0.7, more_is_better=False),
    Row("time to first token, prompt 1024", "ttft_1024_ms", OURS, PEERS, 1.0, 0.7, more_is_better=False),
    Row("p99 / p50 between tokens, long prompts arriving", "itl_ratio", DEFAULT, (), 2.0, 1.5, "x", False),
    Row("start to first streamed token", "start_s", DEFAULT, (), 3.0, 1.5, " s", False),
    Row("peak memory, 32 streams, best", "rss_fresh_mib", OURS, ("OpenVINO int8",), 0.8, 0.5, more_is_better=False),
    Row("peak memory, 32 streams, default", "rss_fresh_mib", DEFAULT, ("OpenVINO int8",), 0.8, 0.5, "x", False),
    *(Row(f"change of NLL, {name}", "nll_change", (name,), (), 0.005, 0.001, "", False) for name in OURS),
    Row("idle, share of a core", "idle_percent", DEFAULT, (), 1.0, 0.1, " %", False),
    Row("share of the memory roof, 1 stream", "roof_percent", DEFAULT, (), 65, 85, " %"),
    Row("share of the roof with the last cache, 1 stream", "cached_roof_percent", DEFAULT, (), 65, 85, " %"),
    Row("second request with a common prefix of 1024", "prefix_ratio", DEFAULT, (), 0.1, 0.05, "x", False),
)


@dataclass(frozen=True)
class Judged:
    """What came of a row: the median of its ratios, and how far they spread."""

    row: Row
    ours: str
    peer: str
    median: float
    low: float
    high: float
    our_value: float
    peer_value: float

    @property
    def verdict(self) -> str:
        """Whether the row holds; at a limit, it does."""
        better: Callable[[float, float], bool] = (
            (lambda a, b: a >= b) if self.row.more_is_better else (lambda a, b: a <= b)
        )
        if better(self.median, self.row.reach):
            return "reached"
        return "holds" if better(self.median, self.row.must) else "**under**"


def collect(rounds: Sequence[dict[str, Any]]) -> Samples:
    """All samples of a raw file, in the order of their rounds."""
    samples: Samples = {}
    for one in rounds:
        for figure, value in one["figures"].items():
            samples.setdefault((one["program"], figure), []).append(float(value))
    return samples


def judge(row: Row, samples: Samples) -> Judged | None:
    """The best of ours against the best of the peers, round by round. None when either is missing."""
    ours = _best(row, row.ours, samples)
    if ours is None:
        return None
    mine = samples[ours, row.figure]
    if not row.peers:
        median = statistics.median(mine)
        return Judged(row, ours, "", median, min(mine), max(mine), median, math.nan)
    peer = _best(row, row.peers, samples)
    if peer is None:
        return None
    theirs = samples[peer, row.figure]
    ratios = [a / b for a, b in zip(mine, theirs, strict=False)]
    return Judged(
        row, ours, peer, statistics.median(ratios), min(ratios), max(ratios), statistics.median(mine),
        statistics.median(theirs),
    )  # fmt: skip


def _best(row: Row, names: Sequence[str], samples: Samples) -> str | None:
    found = [name for name in names if samples.get((name, row.figure))]
    choose = max if row.more_is_better else min
    return choose(found, key=lambda name: statistics.median(samples[name, row.figure]), default=None)


def render(raw: dict[str, Any]) -> str:
    """The Markdown table of a raw file."""
    samples = collect(raw["rounds"])
    lines = ["| cell | measured | spread | must | reach | | ours, peer |", "|---|--:|--:|--:|--:|---|---|"]
    for row in ROWS:
        judged = judge(row, samples)
        if judged is None:
            lines.append(f"| {row.label} | not measured | | {_limit(row, row.must)} | {_limit(row, row.reach)} | | |")
            continue
        who = f"{judged.ours} {_plain(judged.our_value)}"
        who += f", {judged.peer} {_plain(judged.peer_value)}" if judged.peer else ""
        spread = f"{_value(row, judged.low)} to {_value(row, judged.high)}"
        lines.append(
            f"| {row.label} | {_value(row, judged.median)} | {spread} | {_limit(row, row.must)} "
            f"| {_limit(row, row.reach)} | {judged.verdict} | {who} |"
        )
    lines += ["", *(f"Missing: {name} ({_first_line(reason)})." for name, reason in raw["missing"].items()), ""]
    versions = ", ".join(f"{name} {version}" for name, version in raw["versions"].items())
    lines.append(
        f"{raw['date']}, {raw['machine']}; {raw['num_rounds']} interleaved rounds, medians of ratios; {versions}; "
        f"`{raw['command']}`"
    )
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def programs_table(raw: dict[str, Any]) -> str:
    """Medians of every program and figure, as Markdown: the raw file for people."""
    samples = collect(raw["rounds"])
    programs = list(dict.fromkeys(program for program, _ in samples))
    figures = list(dict.fromkeys(figure for _, figure in samples))
    lines = ["| program | " + " | ".join(figures) + " |", "|---|" + "--:|" * len(figures)]
    for program in programs:
        cells = [samples.get((program, figure)) for figure in figures]
        lines.append(f"| {program} | " + " | ".join(_plain(statistics.median(c)) if c else "–" for c in cells) + " |")
    return "\n".join(lines)


def newest(folder: Path = RESULTS) -> Path | None:
    """The raw file with the last name, which begins with its date; quick runs are not kept there."""
    return max(folder.glob("*-peers.json"), default=None)


def put(page: Path, table: str) -> None:
    """Write the table between the page's markers. Raises: ValueError when it has none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"`{page.name}` has no place for the figures")
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _value(row: Row, value: float) -> str:
    return f"{_plain(value)}{row.unit}"


def _limit(row: Row, value: float) -> str:
    return f"{'>=' if row.more_is_better else '<='} {value:g}{row.unit}"


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.4f}"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:160] if text.strip() else "no reason"
