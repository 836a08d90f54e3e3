"""Where the time of a decode step goes, against the floor of each part: `python -m benchmarks.profile_step MODEL`.

Loads a model as the engine does, lets it record a step of 1 and of 32 sequences, then makes the recorded calls again
one by one, in their order, many times, and adds up each one's least time by kind: caches are as in a real step. The
floors are what the memory's bandwidth and the processor's rate allow, as `tgi bench` measures them. What the parts
leave of a whole step is Python.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tgi.bench import machine, roof
from tgi.checkpoint import open_checkpoint
from tgi.config import Config, Model
from tgi.kernels.replay import REPLAYED, Recording
from tgi.runner.graphs import Kind
from tgi.runner.plan import RowState, StepPlan
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams


def decode_step(runner: ModelRunner, rows: int, context: int, *, first: bool) -> StepPlan:
    """One token for each of `rows` sequences of `context` tokens, whose caches hold zeros; `first` begins the rows."""
    size = runner.block_size
    width = -(-context // size)
    tables = 1 + np.arange(rows * width, dtype=np.int32).reshape(rows, width)
    last = context - 1
    ids, row = np.full(rows, 1000, np.int32), np.arange(rows, dtype=np.int32)
    greedy = SamplingParams(do_sample=False)
    states = tuple(RowState(i, greedy, ids[:1], ids[:0], top_tokens=0, prompt_logprobs=False) for i in range(rows))
    return StepPlan(
        input_ids=ids, positions=np.full(rows, last, np.int32),
        slot_mapping=tables[:, last // size].astype(np.int64) * size + last % size,
        query_starts=np.arange(rows + 1, dtype=np.int32), context_lens=np.full(rows, context, np.int32),
        block_tables=tables, rope_variants=np.zeros(rows, np.int32), logits_indices=row, logits_rows=row,
        sample=np.ones(rows, np.bool_), targets=np.full(rows, -1, np.int32), started=states if first else (),
    )  # fmt: skip


def calls(recording: Recording) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    """Every recorded call by itself: its name, and the program of it alone."""
    words, place = recording.words, 0
    while place < len(words):
        end = place + 2 + words[place + 1]
        yield REPLAYED[words[place]], np.array(words[place:end], np.int64)
        place = end


def profile(runner: ModelRunner, rows: int, context: int, repeats: int) -> dict[str, float]:
    """Microseconds of a whole step and of its parts."""
    blocks = 1 + rows * -(-context // runner.block_size)
    for cache in runner._caches:  # memory nobody has written is one page, which the processor's caches hold
        cache.keys[:blocks] = 0
        cache.values[:blocks] = 0
    for number in range(3):
        runner.execute(decode_step(runner, rows, context, first=number == 0))
    plan = decode_step(runner, rows, context, first=False)
    found = {"step": _least(lambda: runner.execute(plan), repeats)}
    recording = runner._graphs._graphs[Kind(decode=True, wanted=True, likeliest=True)].recording
    run = recording.run
    assert run is not None
    parts = list(calls(recording))
    least = [float("inf")] * len(parts)
    for _ in range(repeats):
        for number, (_, program) in enumerate(parts):
            least[number] = min(least[number], _least(functools.partial(run, program.ctypes.data, len(program)), 1))
    *layers, head, greedy = zip(parts, least, strict=True)
    for (name, _), time_us in layers:
        found[name] = found.get(name, 0.0) + time_us
    found["output layer"], found["greedy"] = head[1], greedy[1]
    found["the rest"] = found["step"] - sum(value for name, value in found.items() if name != "step")
    runner._sampler.end(tuple(range(rows)))
    return found


def _least(function: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begin)
    return 1e6 * best


def main() -> None:
    """Print a line of JSON for each number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a model's file or folder")
    parser.add_argument("--streams", default="1,32")
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--quantize", help="as of tgi serve")
    options = parser.parse_args()
    runner = ModelRunner.load(open_checkpoint(options.model), config=Config(model=Model(quantize=options.quantize)))
    runner.warm_up()
    limits = machine.measure_roof()
    cost = roof.model_cost(options.model, kv_item_bytes=runner._caches[0].keys.itemsize)
    rate = limits.integer_rate if options.quantize and limits.integer_rate else limits.float32_rate
    for rows in [int(word) for word in options.streams.split(",")]:
        found = profile(runner, rows, options.context, options.repeats)
        cached = rows * options.context * cost.kv_bytes
        bandwidth = roof.bandwidth(limits, cost.weight_bytes + cached)
        weights, cache = 1e6 * cost.weight_bytes / bandwidth, 1e6 * cached / bandwidth
        line = {
            "streams": rows,
            "context": options.context,
            "floor of the weights": weights,
            "floor of the products": 2e6 * rows * (cost.layer_parameters + cost.head_parameters) / rate,
            "floor of the cache": cache,
        }
        print(json.dumps({name: round(value) for name, value in {**line, **found}.items()}))


if __name__ == "__main__":
    main()
