"""Two servers, or two saved results, figure by figure: ratios with bootstrap confidence intervals and a verdict.

Requests are the unit of resampling, not tokens: the gaps of one stream are not independent. Where both were measured in
alternating rounds, rounds are resampled first, in pairs, so that what disturbed the machine for a while counts for
both. Percentile intervals of few units are too narrow, so they are expanded as Student's t is wider than the normal
distribution. Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13; Hesterberg,
What Teachers Should Know About the Bootstrap (2015), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tgi.bench.measure import e2e_s, tpot_s, ttft_s
from tgi.bench.results import Ratio, Run, Step, Trace
from tgi.errors import ConfigError

RESAMPLES = 2000
WINDOWS = 10  # parts that a step without rounds is cut into, for its throughput
CONFIDENCE = 0.95
LEAST_ROUNDS = 4  # that rounds are resampled from; fewer tell too little of how they differ
RATE, TTFT, TPOT, E2E = "output_token_rate", "ttft_ms", "tpot_ms", "e2e_ms"
NAMES = {RATE: "output tokens/s", TTFT: "time to first token", TPOT: "time per token", E2E: "whole answer"}

Values = npt.NDArray[np.float64]


def compare(run: Run) -> Run:
    """A run of two servers, with its ratios and verdict filled in."""
    pairs = pair_steps(
        [step for step in run.steps if step.target == 0], [step for step in run.steps if step.target == 1]
    )
    ratios = tuple(ratio for a, b in pairs for ratio in ratios_of(a, b, run.seed))
    return replace(run, comparison=ratios, verdict=verdict(ratios))


def merge(a: Run, b: Run) -> Run:
    """Two saved runs of one server each as one run of two, compared.

    Raises: ConfigError where they have no load in common, or one is itself a comparison.
    """
    for run in (a, b):
        if len(run.targets) != 1:
            raise ConfigError("a comparison cannot be compared again", hint="give two results of one server each")
    if not pair_steps(a.steps, b.steps):
        raise ConfigError(
            f"the results have no load in common: {_labels(a)} against {_labels(b)}",
            hint="measure both with the same flags",
        )
    steps = [
        replace(step, target=target, traces=tuple(replace(trace, target=target) for trace in step.traces))
        for target, run in enumerate((a, b))
        for step in run.steps
    ]
    notes = [*a.notes, *b.notes]
    if a.machine != b.machine:
        notes.append("the results come from different machines")
    merged = replace(
        a, command=f"{a.command}  against  {b.command}", targets=(*a.targets, *b.targets), steps=tuple(steps),
        notes=tuple(dict.fromkeys(notes)), interrupted=a.interrupted or b.interrupted, roof=None,
    )  # fmt: skip
    return compare(merged)


def pair_steps(a: Sequence[Step], b: Sequence[Step]) -> list[tuple[Step, Step]]:
    """Steps of the same load: kind, label and lengths."""
    other = {_key(step): step for step in b}
    return [(step, other[_key(step)]) for step in a if _key(step) in other]


def ratios_of(a: Step, b: Step, seed: int) -> list[Ratio]:
    """Every figure that both steps have, B divided by A."""
    chance = np.random.default_rng(seed)
    found = []
    for metric, value in ((RATE, None), (TTFT, ttft_s), (TPOT, tpot_s), (E2E, e2e_s)):
        ratio = _rate_ratio(a, b, chance) if value is None else _median_ratio(a, b, metric, value, chance)
        if ratio is not None:
            found.append(ratio)
    return found


def verdict(ratios: Sequence[Ratio]) -> str:
    """One line for people: who is better in what, and how sure that is."""
    if not ratios:
        return "no verdict: there is nothing to compare"
    sides = {side: sum(ratio.better == side for ratio in ratios) for side in ("A", "B")}
    undecided = len(ratios) - sum(sides.values())
    rates = [ratio for ratio in ratios if ratio.metric == RATE]
    mean = math.exp(sum(math.log(ratio.ratio) for ratio in rates) / len(rates)) if rates else 1.0
    throughput = f"B has {mean:.2f}x the output tokens/s of A" + (" on average" if len(rates) > 1 else "")
    if len(rates) == 1:
        throughput += f" ({CONFIDENCE:.0%} CI {rates[0].low:.2f} to {rates[0].high:.2f})"
    if not any(sides.values()):
        return f"no difference shown: all {len(ratios)} intervals contain 1; {throughput}"
    winner = max(sides, key=lambda side: sides[side])
    loser = "A" if winner == "B" else "B"
    words = f"{winner} is better in {sides[winner]} of {len(ratios)} figures"
    if sides[loser]:
        words = f"mixed: {words}, {loser} in {sides[loser]}"
    return f"{words}{f', {undecided} undecided' if undecided else ''}; {throughput}"


def _rate_ratio(a: Step, b: Step, chance: np.random.Generator) -> Ratio | None:
    rounds_a, rounds_b = _round_rates(a), _round_rates(b)
    if not len(rounds_a) or not len(rounds_b) or not rounds_a.mean() or not rounds_b.mean():
        return None
    picks_a = chance.integers(len(rounds_a), size=(RESAMPLES, len(rounds_a)))
    paired = _rounds(a) > 0 and _rounds(a) == _rounds(b)
    picks_b = picks_a if paired else chance.integers(len(rounds_b), size=(RESAMPLES, len(rounds_b)))
    means_a, means_b = rounds_a[picks_a].mean(axis=1), rounds_b[picks_b].mean(axis=1)
    return _ratio(
        a, RATE, "mean", (a.summary.output_token_rate, b.summary.output_token_rate), (means_a, means_b),
        units=min(len(rounds_a), len(rounds_b)),
    )  # fmt: skip


def _median_ratio(
    a: Step, b: Step, metric: str, value: Callable[[Trace], float | None], chance: np.random.Generator
) -> Ratio | None:
    parts_a, parts_b = _values(a, value), _values(b, value)
    all_a, all_b = np.concatenate(parts_a), np.concatenate(parts_b)
    if not len(all_a) or not len(all_b) or not np.median(all_a) or not np.median(all_b):
        return None
    paired = len(parts_a) == len(parts_b) > 1
    medians_a, medians_b = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        if paired:
            picks = chance.integers(len(parts_a), size=len(parts_a))
            pool_a = np.concatenate([parts_a[pick] for pick in picks])
            pool_b = np.concatenate([parts_b[pick] for pick in picks])
            pool_a, pool_b = (pool_a if len(pool_a) else all_a), (pool_b if len(pool_b) else all_b)
        else:
            pool_a, pool_b = all_a, all_b
        medians_a[number] = np.median(chance.choice(pool_a, len(pool_a)))
        medians_b[number] = np.median(chance.choice(pool_b, len(pool_b)))
    return _ratio(
        a, metric, "median", (1e3 * float(np.median(all_a)), 1e3 * float(np.median(all_b))), (medians_a, medians_b),
        units=len(parts_a) if paired else min(len(all_a), len(all_b)),
    )  # fmt: skip


def _ratio(
    step: Step,
    metric: str,
    statistic: str,
    figures: tuple[float, float],
    resampled: tuple[Values, Values],
    *,
    units: int,
) -> Ratio:
    a, b = figures
    kept = resampled[0] > 0
    tail = 100 * _tail(units)
    quantiles = np.percentile(resampled[1][kept] / resampled[0][kept], (tail, 100 - tail))
    low, high = float(quantiles[0]), float(quantiles[1])
    better = None
    if low > 1 or high < 1:
        better = "B" if (low > 1) == (metric == RATE) else "A"
    return Ratio(
        load=step.load.label, metric=metric, statistic=statistic, a=a, b=b, ratio=b / a, low=low, high=high,
        better=better,
    )  # fmt: skip


def _tail(units: int) -> float:
    """The share of resamples beyond each end of an interval from that many units."""
    normal = NormalDist()
    z, freedom = normal.inv_cdf((1 + CONFIDENCE) / 2), max(1, units - 1)
    # Student's quantile by its expansion in 1 / freedom (Abramowitz and Stegun, 26.7.5).
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-student * math.sqrt(units / freedom))


def _rounds(step: Step) -> int:
    """Rounds to resample; 0 where there are too few."""
    return len(step.round_ends_s) if len(step.round_ends_s) >= LEAST_ROUNDS else 0


def _round_rates(step: Step) -> Values:
    """Tokens a second in every round; a step without rounds is cut into windows of equal length."""
    end = max((trace.finished_s for trace in step.traces), default=0.0)
    begin = min((trace.scheduled_s for trace in step.traces), default=0.0)
    ends = (
        step.round_ends_s
        if _rounds(step)
        else tuple(begin + (end - begin) * (window + 1) / WINDOWS for window in range(WINDOWS))
    )
    edges = np.array([0.0 if _rounds(step) else begin, *ends])
    tokens = np.zeros(len(ends))
    for trace in step.traces:
        if trace.error is None and trace.token_times_s:
            places = np.clip(np.searchsorted(edges, trace.token_times_s, side="left") - 1, 0, len(ends) - 1)
            np.add.at(tokens, places, trace.output_tokens / len(trace.token_times_s))
    widths = np.diff(edges)
    rates: Values = tokens[widths > 0] / widths[widths > 0]
    return rates


def _values(step: Step, value: Callable[[Trace], float | None]) -> list[Values]:
    """A figure of every successful request, by round."""
    edges = np.array(step.round_ends_s if _rounds(step) else (math.inf,))
    parts: list[list[float]] = [[] for _ in edges]
    for trace in step.traces:
        found = value(trace) if trace.error is None else None
        if found is not None:
            parts[min(int(np.searchsorted(edges, trace.finished_s, side="left")), len(parts) - 1)].append(found)
    return [np.array(part) for part in parts]


def _key(step: Step) -> tuple[object, ...]:
    load = step.load
    return (load.kind, load.label, load.prompt_tokens, load.output_tokens, load.shared_prefix_tokens, load.turns)


def _labels(run: Run) -> str:
    labels = [
        f"{step.load.label} of {step.load.prompt_tokens} + {step.load.output_tokens} tokens" for step in run.steps
    ]
    return ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
