"""Throughput and latency of `tgi serve` at several numbers of concurrent streams.

    python -m benchmarks.streams --streams 1,8,32,64 --repeats 3 --output benchmarks/results/streams.json

Starts the server itself (all further arguments go to `tgi serve`), or measures a running one with `--url`. Rounds are
interleaved (1, 8, 32, 64, 1, 8, ...), so that a noisy minute of the machine hits every row alike. Every stream has its
own prompt of about `--prompt-words` words and asks for `--new-tokens` tokens, greedy. Client-side clock.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

WORDS = tuple(
    word
    for line in (
        "the river carries stones from the mountain to the sea while people in the valley build houses of clay",
        "and wood and tell each other stories about winters that were colder and summers that were longer",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Trace:
    """Times of one stream, in seconds since it was sent."""

    first_s: float
    last_s: float
    tokens: int
    gaps_s: tuple[float, ...]


def prompt(number: int, words: int) -> str:
    """A prompt of `words` words that shares no prefix with another number's."""
    start = f"Story {number}: "
    return start + " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(words))


async def one(session: aiohttp.ClientSession, url: str, number: int, words: int, new_tokens: int) -> Trace:
    """Send one request and read its stream to the end."""
    body = {"inputs": prompt(number, words), "parameters": {"max_new_tokens": new_tokens, "details": True}}
    sent = time.perf_counter()
    times: list[float] = []
    async with session.post(f"{url}/generate_stream", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if "error" in event:
                    raise RuntimeError(event["error"])
                times.append(time.perf_counter() - sent)
    gaps = tuple(b - a for a, b in itertools.pairwise(times))
    return Trace(times[0], times[-1], len(times), gaps)


async def round_of(url: str, streams: int, first: int, words: int, new_tokens: int) -> dict[str, float]:
    """One round: all streams at once. Rates in tokens/s, times in ms."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        started = time.perf_counter()
        traces = await asyncio.gather(*(one(session, url, first + i, words, new_tokens) for i in range(streams)))
        wall = time.perf_counter() - started
    tokens = sum(trace.tokens for trace in traces)
    gaps = sorted(gap for trace in traces for gap in trace.gaps_s)
    return {
        "total_tokens_per_s": tokens / wall,
        "decode_tokens_per_s": statistics.median((t.tokens - 1) / (t.last_s - t.first_s) for t in traces),
        "ttft_p50_ms": statistics.median(t.first_s for t in traces) * 1e3,
        "itl_p50_ms": gaps[len(gaps) // 2] * 1e3,
        "itl_p99_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
        "tokens": tokens,
    }


async def measure(url: str, options: argparse.Namespace) -> dict[int, list[dict[str, float]]]:
    """All rounds, interleaved; the first request of all is a warm-up and not counted."""
    counts = [int(n) for n in options.streams.split(",")]
    await round_of(url, 1, 1_000_000, options.prompt_words, 8)
    results: dict[int, list[dict[str, float]]] = {n: [] for n in counts}
    number = 0
    for _ in range(options.repeats):
        for n in counts:
            results[n].append(await round_of(url, n, number, options.prompt_words, options.new_tokens))
            number += n
            print(f"  {n:3d} streams: {results[n][-1]['total_tokens_per_s']:7.1f} tok/s", file=sys.stderr)
    return results


def start(arguments: list[str]) -> tuple[subprocess.Popen[str], str, float]:
    """Start `tgi serve` on a free port; returns the process, its URL and the seconds until it was ready."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tgi", "serve", "--hostname", "127.0.0.1", "--port", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    url = ""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(line)
        if "http://127.0.0.1:" in line and not url:
            url = "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split("/")[0].split()[0]
        if "Connected" in line:
            # A full pipe would stop the server in the middle of a log line.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, url, time.perf_counter() - begun
    raise SystemExit("tgi serve ended before it was ready")


def peak_rss_mib(pid: int) -> float:
    """Resident memory of a process and its children now, shared pages counted once a process, in MiB."""
    root = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [root, *root.children(recursive=True)]) / 2**20


def table(results: dict[int, list[dict[str, float]]]) -> str:
    """Medians over the rounds, as Markdown."""
    keys = ["total_tokens_per_s", "decode_tokens_per_s", "ttft_p50_ms", "itl_p50_ms", "itl_p99_ms"]
    rows = ["| streams | total tok/s | decode tok/s a stream | TTFT p50 ms | ITL p50 ms | ITL p99 ms | total vs 1 |",
            "|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    medians = {n: {k: statistics.median(r[k] for r in rounds) for k in keys} for n, rounds in results.items()}
    base = medians[min(medians)]["total_tokens_per_s"]
    for n, row in medians.items():
        cells = " | ".join(f"{row[k]:.1f}" for k in keys)
        rows.append(f"| {n} | {cells} | {row['total_tokens_per_s'] / base:.1f}x |")
    return "\n".join(rows)


def main() -> None:
    """Parse, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--url", help="a running server; default: start one")
    parser.add_argument("--streams", default="1,8,32,64")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt-words", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--output", type=Path)
    options, serve_arguments = parser.parse_known_args()
    process, url, ready_s = (None, options.url, None) if options.url else start(serve_arguments)
    facts: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.streams", *sys.argv[1:]]),
        "machine": platform.processor() or platform.machine(),
        "cpus": psutil.cpu_count(), "ready_s": ready_s,
    }  # fmt: skip
    try:
        results = asyncio.run(measure(url, options))
        if process:
            facts["rss_mib"] = peak_rss_mib(process.pid)
    finally:
        if process:
            process.terminate()
            process.wait()
    print(table(results))
    print(json.dumps(facts))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**facts, "rounds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
