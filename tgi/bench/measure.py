"""Traces into figures: distributions, rates, errors by kind, goodput, and TGI's prefill and decode."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tgi.bench.results import BatchRun, BatchSummary, Distribution, Load, Objective, Summary, Trace

PERCENTILES = (50, 90, 95, 99)


def distribution(values: Iterable[float], *, as_tgi: bool = False) -> Distribution | None:
    """The values in brief; None if there are none.

    `as_tgi` takes percentile p of n sorted values as the one at index floor(p / 100 * n), without interpolation.
    """
    sorted_values = np.sort(np.fromiter(values, dtype=np.float64))
    if not len(sorted_values):
        return None
    if as_tgi:
        last = len(sorted_values) - 1
        p50, p90, p95, p99 = (float(sorted_values[min(last, p * len(sorted_values) // 100)]) for p in PERCENTILES)
    else:
        p50, p90, p95, p99 = np.percentile(sorted_values, PERCENTILES).tolist()
    return Distribution(
        count=len(sorted_values), mean=float(sorted_values.mean()), std=float(sorted_values.std()),
        min=float(sorted_values[0]), max=float(sorted_values[-1]), p50=p50, p90=p90, p95=p95, p99=p99,
    )  # fmt: skip


def ttft_s(trace: Trace) -> float | None:
    """Time to the first token, from when the request should have been sent, in seconds."""
    first = trace.first_token_s
    return None if first is None else first - trace.scheduled_s


def e2e_s(trace: Trace) -> float:
    """From when the request should have been sent to its last byte, in seconds."""
    return trace.finished_s - trace.scheduled_s


def gaps_s(trace: Trace) -> list[float]:
    """Times between neighbouring events, in seconds."""
    return [later - earlier for earlier, later in itertools.pairwise(trace.token_times_s)]


def tpot_s(trace: Trace) -> float | None:
    """Mean time of a token after the first, in seconds; None where there was one token only.

    By tokens, not events: a server may put several tokens into one event.
    """
    if len(trace.token_times_s) < 2 or trace.output_tokens < 2:
        return None
    return (trace.token_times_s[-1] - trace.token_times_s[0]) / (trace.output_tokens - 1)


def summarise(traces: Sequence[Trace], objectives: Sequence[Objective] = ()) -> Summary:
    """All figures of one step. Warm-up requests are left out."""
    measured = [trace for trace in traces if not trace.warmup]
    good = [trace for trace in measured if trace.error is None]
    begin = min((trace.scheduled_s for trace in measured), default=0.0)
    end = max((trace.finished_s for trace in measured), default=0.0)
    seconds = end - begin
    prompt_tokens = sum(trace.prompt_tokens for trace in good)
    output_tokens = sum(trace.output_tokens for trace in good)
    kept = sum(keeps(trace, objectives) for trace in good) if objectives else None
    return Summary(
        requests=len(measured),
        completed=len(good),
        failed=len(measured) - len(good),
        errors=dict(Counter(trace.error for trace in measured if trace.error is not None).most_common()),
        duration_s=seconds,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        request_rate=_rate(len(good), seconds),
        output_token_rate=_rate(output_tokens, seconds),
        total_token_rate=_rate(prompt_tokens + output_tokens, seconds),
        mean_concurrency=_rate(sum(trace.finished_s - trace.sent_s for trace in measured), seconds),
        ttft_ms=distribution(1e3 * value for trace in good if (value := ttft_s(trace)) is not None),
        itl_ms=distribution(1e3 * gap for trace in good for gap in gaps_s(trace)),
        tpot_ms=distribution(1e3 * value for trace in good if (value := tpot_s(trace)) is not None),
        e2e_ms=distribution(1e3 * e2e_s(trace) for trace in good),
        late_ms=distribution(1e3 * (trace.sent_s - trace.scheduled_s) for trace in measured),
        good_requests=kept,
        good_rate=None if kept is None else _rate(kept, seconds),
    )


def keeps(trace: Trace, objectives: Sequence[Objective]) -> bool:
    """Whether a request kept every objective; its `itl` is its mean time a token, as goodput is usually defined.

    Source: DistServe (Zhong et al., 2024), section 2.
    """
    if trace.error is not None:
        return False
    values = {"ttft": ttft_s(trace), "itl": tpot_s(trace), "e2e": e2e_s(trace)}
    return all(
        (value := values[objective.metric]) is None or 1e3 * value <= objective.milliseconds for objective in objectives
    )


def batch_run(traces: Sequence[Trace]) -> BatchRun | None:
    """One run of TGI's method out of its requests' traces; None if one of them failed."""
    if not traces or any(trace.error is not None or not trace.token_times_s for trace in traces):
        return None
    sent = min(trace.sent_s for trace in traces)
    prefilled = max(trace.token_times_s[0] for trace in traces)
    decoded = max(trace.token_times_s[-1] for trace in traces)
    return BatchRun(prefill_s=prefilled - sent, decode_s=decoded - prefilled)


def summarise_batches(load: Load, runs: Sequence[BatchRun]) -> BatchSummary | None:
    """TGI's figures: prefill and decode of a batch, over its runs. None if no run succeeded.

    With one token a request there is no decode; its figures are 0 then, as TGI's.
    """
    size, steps = load.concurrency or 1, (load.output_tokens or 1) - 1
    found = [
        distribution(values, as_tgi=True)
        for values in (
            [1e3 * run.prefill_s for run in runs],
            [1e3 * run.decode_s / steps if steps else 0.0 for run in runs],
            [1e3 * run.decode_s for run in runs],
            [_rate(size * (load.prompt_tokens or 0), run.prefill_s) for run in runs],
            [_rate(size * steps, run.decode_s) for run in runs],
        )
    ]
    prefill, decode_token, decode_total, prefill_rate, decode_rate = found
    if not (prefill and decode_token and decode_total and prefill_rate and decode_rate):
        return None
    return BatchSummary(
        prefill_ms=prefill, decode_token_ms=decode_token, decode_total_ms=decode_total,
        prefill_rate=prefill_rate, decode_rate=decode_rate,
    )  # fmt: skip


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
