"""What multiplying outliers in float32 costs: `python -m benchmarks.outliers MODEL`.

All matmuls of a step in `--quantize int8`, at several numbers of tokens, with the columns that were singled out and
without them, by turns in one process (`tgi/quantization/outliers.py`). Prints a line of JSON for each number of tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from tgi import kernels
from tgi.checkpoint import open_checkpoint
from tgi.config import Config, Model
from tgi.kernels import PackedWeight
from tgi.runner.runner import ModelRunner


def weights(runner: ModelRunner) -> list[PackedWeight]:
    """The matrices of all linear maps of a model; the output layer's is the last."""
    model = runner._model
    maps = [value for layer in model.layers for part in (layer.attention, layer.mlp) for value in vars(part).values()]
    found = [value.weight for value in maps if isinstance(getattr(value, "weight", None), PackedWeight)]
    return [*found, *(value for value in vars(model.head).values() if isinstance(value, PackedWeight))]


def compare(packed: list[PackedWeight], tokens: int, rounds: int) -> dict[str, float]:
    """Least milliseconds with and without outliers, and the median of the ratios of neighbouring measurements."""
    chance = np.random.default_rng(0)
    inputs = {w.columns: chance.standard_normal((tokens, w.columns), dtype=np.float32) for w in packed}
    matrices = [(matrix, matrix.outlier_count) for w in packed for matrix in w.prepared["cpu"].matrices]
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for apart in (False, True):
            for matrix, count in matrices:
                matrix.outlier_count = count if apart else 0
            begin = time.perf_counter()
            for w in packed:
                kernels.matmul(inputs[w.columns], w)
            times[apart].append(1e3 * (time.perf_counter() - begin))
    ratios = [after / before for before, after in zip(times[False], times[True], strict=True)]
    return {
        "tokens": tokens, "without_ms": round(min(times[False]), 3), "with_ms": round(min(times[True]), 3),
        "median_ratio": round(statistics.median(ratios), 3),
    }  # fmt: skip


def main() -> None:
    """Print the figures of each number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a model's file or folder")
    parser.add_argument("--tokens", default="1,8,32,256")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    runner = ModelRunner.load(open_checkpoint(options.model), config=Config(model=Model(quantize="int8")))
    runner.warm_up()
    packed = weights(runner)
    singled = [len(w.outliers) for w in packed]
    megabytes = 4e-6 * sum(w.rows * len(w.outliers) for w in packed)
    print(json.dumps({"maps": len(packed), "columns": sum(singled) / len(singled), "megabytes": round(megabytes, 1)}))
    for tokens in map(int, options.tokens.split(",")):
        print(json.dumps(compare(packed, tokens, options.rounds)))


if __name__ == "__main__":
    main()
