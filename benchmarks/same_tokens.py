"""What one fixed order of sums costs: `python -m benchmarks.same_tokens`.

The same tokens whatever the batch need every sum in one order. This compares our kernels with two programs that are
free of that: torch's own matmul, whose library picks an order by shape, on float32 weights of the default model's
shapes; and our sources compiled with `-ffast-math`, which lets the compiler change any order it likes, on all
operations of a step. Both are called in turns; the least time of each counts. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tgi.checkpoint.layouts import row_bytes
from tgi.kernels import Array, Matrix, PackedWeight
from tgi.kernels.cpu import CpuKernels, find_library

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, BLOCK = 576, 1536, 9, 3, 64, 16
LAYERS = 6  # of the default model's 30: enough that weights come from beyond the second-level cache
SHAPES = (((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER))
ROOT = Path(__file__).parents[1]


def build_free(folder: Path) -> Path:
    """Our sources, compiled without any promise about order."""
    flags = "-ffast-math -ffp-contract=fast"
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), f"-DCMAKE_CXX_FLAGS={flags}", "-DSKBUILD=1"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder), "--target", "tgi_cpu"], check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("**/libtgi_cpu.so"))


def weights(layout: str, *, integer: bool = False) -> list[PackedWeight]:
    """Random matrices of the default model's layers; each library packs them for itself."""
    rng = np.random.default_rng(0)
    made = []
    for rows, columns in SHAPES * LAYERS:
        if layout == "F32":
            data = rng.standard_normal(rows * columns, np.float32).view(np.uint8)
        else:
            data = rng.integers(0, 120, rows * row_bytes(layout, columns), np.uint8)  # no scale is infinite
        made.append(PackedWeight((Matrix(layout, rows, columns, data, integer=integer),)))
    return made


def normal(*shape: int) -> Array:
    """Random numbers around zero, in float32."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def step(ops: CpuKernels, matrices: list[PackedWeight], rows: int, context: int) -> Callable[[], None]:
    """The operations of `LAYERS` layers for `rows` sequences of `context` tokens."""
    width = -(-context // BLOCK)
    tables = np.arange(rows * width, dtype=np.int32).reshape(rows, width)
    cache = normal(2, rows * width, BLOCK, KV_HEADS, HEAD_DIM)
    starts, contexts = np.arange(rows + 1, dtype=np.int32), np.full(rows, context, np.int32)
    x, norm = normal(rows, HIDDEN), np.ones(HIDDEN, np.float32)

    def run() -> None:
        for layer in range(LAYERS):
            qkv_weight, out_weight, up_weight, down_weight = matrices[4 * layer : 4 * layer + 4]
            qkv = ops.matmul(ops.rms_norm(x, norm, 1e-5), qkv_weight)
            q = qkv[:, : HEADS * HEAD_DIM].reshape(rows, HEADS, HEAD_DIM)
            attended = ops.attention(q, cache[0], cache[1], starts, contexts, tables, scale=0.125)
            hidden = ops.matmul(attended, out_weight)
            inner = ops.gated(ops.matmul(ops.rms_norm(hidden, norm, 1e-5), up_weight), "silu")
            ops.matmul(inner, down_weight)

    return run


def matmuls(ops: CpuKernels, matrices: list[PackedWeight], inputs: dict[int, Array]) -> Callable[[], None]:
    """All matmuls alone, by our kernels."""

    def run() -> None:
        for matrix in matrices:
            ops.matmul(inputs[matrix.columns], matrix)

    return run


def linears(matrices: list[PackedWeight], inputs: dict[int, Array]) -> Callable[[], None]:
    """The same by torch."""
    plain = [
        torch.from_numpy(part.data.view(np.float32).reshape(part.rows, part.columns).copy())
        for (part,) in (matrix.parts for matrix in matrices)
    ]
    tensors = {columns: torch.from_numpy(values) for columns, values in inputs.items()}

    def run() -> None:
        for matrix in plain:
            torch.nn.functional.linear(tensors[matrix.shape[1]], matrix)

    return run


def compare(fixed: Callable[[], None], free: Callable[[], None], seconds: float) -> dict[str, float]:
    """The least milliseconds of both, called in turns, and their ratio."""
    best, deadline = [float("inf"), float("inf")], time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for which, function in enumerate((fixed, free)):
            begin = time.perf_counter()
            function()
            best[which] = min(best[which], time.perf_counter() - begin)
    return {"fixed_ms": 1e3 * best[0], "free_ms": 1e3 * best[1], "ratio": best[0] / best[1]}


def main() -> None:
    """Print a line of JSON for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="1,8,32,256")
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison")
    options = parser.parse_args()
    library = find_library()
    if library is None:
        parser.error("the native library is not built: see CMakeLists.txt")
    torch.set_num_threads(options.threads)
    ours = CpuKernels(library)
    ours.configure(options.threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        unordered = CpuKernels(build_free(Path(folder)))
        unordered.configure(options.threads)
        for rows in [int(word) for word in options.rows.split(",")]:
            inputs = {columns: normal(rows, columns) for columns in (HIDDEN, INNER)}
            floats = weights("F32")
            found = {
                "float32 matmuls, free: torch": compare(
                    matmuls(ours, floats, inputs), linears(floats, inputs), options.seconds
                )
            }
            if rows < 256:  # more are a prompt's, which attends otherwise
                for name, layout, integer in (("Q4_1 exact", "Q4_1", False), ("Q4_1 int8", "Q4_1", True)):
                    fixed, free = (
                        step(ops, weights(layout, integer=integer), rows, options.context) for ops in (ours, unordered)
                    )
                    found[f"step, {name}, free: -ffast-math"] = compare(fixed, free, options.seconds)
            for what, figures in found.items():
                line = {"rows": rows, "what": what, **{name: round(value, 3) for name, value in figures.items()}}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
