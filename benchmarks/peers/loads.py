"""The loads: what is sent to a program, and the figures that follow from when its tokens came."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.programs import Request, Trace, cpu_s, rss_bytes

Figures = dict[str, float]
_RSS_EVERY_S = 0.2


@dataclass(frozen=True)
class Sizes:
    """How much each load sends."""

    prompt: int = 128
    new_tokens: int = 128
    singles: int = 3
    long_prompt: int = 1024
    arrivals: int = 5
    arrival_streams: int = 4
    idle_s: float = 5.0


QUICK = Sizes(new_tokens=16, singles=1, arrivals=2, idle_s=1.0)


class Prompts:
    """Prompts of exact lengths, no two with a common prefix, from one text's token ids."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)
        self._number = itertools.count()

    def next(self, length: int) -> list[int]:
        """The text from another place on, after two ids that no other prompt begins with."""
        number = next(self._number)
        start = number * 61 % len(self._ids)
        body = itertools.islice(itertools.cycle(self._ids), start, start + length - 2)
        return [1000 + number % 9973, 1000 + number // 9973, *body][:length]


async def one(program: Any, prompts: Prompts, sizes: Sizes) -> Figures:
    """One stream: decode rate after its first token, and the time to that; medians of requests one after the other.

    A request takes a second, in which other programs of the machine may slow anybody down by a tenth.
    """
    rates, waits = [], []
    for _ in range(sizes.singles):
        (trace,) = await program.generate([Request(prompts.next(sizes.prompt), sizes.new_tokens)])
        check([trace], [sizes.new_tokens])
        rates.append((len(trace.times) - 1) / (trace.times[-1] - trace.times[0]))
        waits.append(1e3 * (trace.times[0] - trace.sent))
    return {"decode_1": statistics.median(rates), "ttft_128_ms": statistics.median(waits)}


def many(count: int) -> Callable[[Any, Prompts, Sizes], Awaitable[Figures]]:
    """All at once: output tokens a second, prefill included, and the most memory meanwhile."""

    async def load(program: Any, prompts: Prompts, sizes: Sizes) -> Figures:
        requests = [Request(prompts.next(sizes.prompt), sizes.new_tokens) for _ in range(count)]
        peak = asyncio.create_task(_watch_memory(program.process.pid))
        try:
            traces = await program.generate(requests)
        finally:
            peak.cancel()
            most = (await asyncio.gather(peak, return_exceptions=True))[0]
        check(traces, [sizes.new_tokens] * count)
        wall = max(trace.times[-1] for trace in traces) - min(trace.sent for trace in traces)
        return {
            f"total_{count}": count * sizes.new_tokens / wall,
            f"rss_{count}_mib": most / 2**20 if isinstance(most, int) else float("nan"),
        }

    return load


async def long(program: Any, prompts: Prompts, sizes: Sizes) -> Figures:
    """Time to the first token of a long prompt; the median of a few, as of `one`."""
    waits = []
    for _ in range(sizes.singles):
        (trace,) = await program.generate([Request(prompts.next(sizes.long_prompt), 2)])
        check([trace], [2])
        waits.append(1e3 * (trace.times[0] - trace.sent))
    return {"ttft_1024_ms": statistics.median(waits)}


async def arrivals(program: Any, prompts: Prompts, sizes: Sizes) -> Figures:
    """Some streams decode while a long prompt arrives every second: how even their tokens come."""
    decoding = [
        Request(prompts.next(sizes.prompt), 2 * sizes.new_tokens) for _ in range(sizes.arrival_streams)
    ]  # fmt: skip
    arriving = [Request(prompts.next(sizes.long_prompt), 2, at_s=1.0 + i) for i in range(sizes.arrivals)]
    traces = (await program.generate([*decoding, *arriving]))[: len(decoding)]
    gaps = [b - a for trace in traces for a, b in itertools.pairwise(trace.times) if b >= 1.0]
    if len(gaps) < 20:  # all tokens came before the first arrival
        return {}
    cuts = statistics.quantiles(gaps, n=100)
    return {"itl_p50_ms": 1e3 * cuts[49], "itl_p99_ms": 1e3 * cuts[98], "itl_ratio": cuts[98] / cuts[49]}


async def prefix(program: Any, prompts: Prompts, sizes: Sizes) -> Figures:
    """Two requests with a long common beginning, one after the other: time to first token, second to first."""
    shared = prompts.next(sizes.long_prompt)
    times = []
    for ending in (700, 701):
        (trace,) = await program.generate([Request([*shared, ending], 2)])
        check([trace], [2])
        times.append(trace.times[0] - trace.sent)
    return {"prefix_ratio": times[1] / times[0]}


async def idle(program: Any, prompts: Prompts, sizes: Sizes) -> Figures:
    """The share of one core used while nothing is asked."""
    await asyncio.sleep(0.5)
    before, start = cpu_s(program.process.pid), time.perf_counter()
    await asyncio.sleep(sizes.idle_s)
    return {"idle_percent": 100 * (cpu_s(program.process.pid) - before) / (time.perf_counter() - start)}


LOADS: dict[str, Callable[[Any, Prompts, Sizes], Awaitable[Figures]]] = {
    "one": one, "long": long, "8": many(8), "32": many(32), "arrivals": arrivals, "prefix": prefix, "idle": idle,
}  # fmt: skip
OURS_ONLY = ("arrivals", "prefix", "idle")  # judged by themselves, not against a peer


def check(traces: Sequence[Trace], lengths: Sequence[int]) -> None:
    """A figure counts only when every token came. Raises: RuntimeError."""
    for trace, length in zip(traces, lengths, strict=True):
        # Events may carry an unfinished character together with the next token: a few fewer are the same tokens.
        if len(trace.times) < max(1, length * 0.9):
            raise RuntimeError(f"{len(trace.times)} of {length} tokens came")


async def _watch_memory(pid: int) -> int:
    most = 0
    try:
        while True:
            most = max(most, await asyncio.to_thread(rss_bytes, pid))
            await asyncio.sleep(_RSS_EVERY_S)
    except asyncio.CancelledError:
        return most
