"""The native library of `native/`, called through ctypes: a thin method an operation, which checks and passes pointers.

A decode step makes hundreds of these calls, so what can be known once is kept: functions are bound with their argument
types when the library is loaded, a weight's description is made at its first use, and `record` keeps whole steps.
ctypes releases the GIL during a call. The functions of the library are described in `native/api.cpp`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from tgi.kernels.addresses import FLOAT32, INT32, INT64, address, expect, expect_heads, facts, rows, step, where
from tgi.kernels.arrays import Array
from tgi.kernels.backend import ACTIVATIONS
from tgi.kernels.prepared import Prepared
from tgi.kernels.replay import REPLAYED, Memory, Recorder, Recording
from tgi.kernels.weights import Matrix, PackedWeight

# The order of the enumeration in `native/kernels.h`.
PATHS = ("portable", "avx2", "avx512", "avx512_bf16")
CACHE_TYPES = {FLOAT32: 0, np.dtype(np.float16): 1, np.dtype(np.uint16): 2}  # brain floats: `tgi.kernels.arrays`
MAX_HEAD_DIM = 512
_LARGE = 1 << 14  # values: 64 KiB

# The arguments of each function of `native/api.cpp`: pointer, 64-bit integer or number of things, int, float.
_SIGNATURES = {
    "configure": "ii",
    "pack": "plp",
    "matmul": "vlnlplpvli",
    "embedding": "vnpv",
    "norm": "ivnllllppfv",
    "rotary": "vlllvlllvvnli",
    "write_kv": "vllvllppilllvn",
    "attention": "vllnlllppillvvvnlflv",
    "activate": "vnliiv",
    "greedy": "vnllpp",
    "take": "vllvnv",
    "populate": "pll",
    "replay": "pl",
}
_TYPES: dict[str, type[ctypes._SimpleCData[Any]]] = {
    "p": ctypes.c_void_p,
    "v": ctypes.c_void_p,  # of a value that belongs to one step
    "l": ctypes.c_int64,
    "n": ctypes.c_int64,  # of tokens, requests or the like in a step
    "i": ctypes.c_int,
    "f": ctypes.c_float,
}


def find_library() -> Path | None:
    """The library beside this package's modules; an editable install keeps it in another folder of the package."""
    for folder in sys.modules[__package__].__path__:
        path = Path(folder) / "libtgi_cpu.so"
        if path.exists():
            return path
    return None


class CpuKernels:
    """The operations of `tgi.kernels`, by the native library; wrong shapes and types are a ValueError."""

    def __init__(self, path: Path) -> None:
        """Load the library and bind its functions. Raises: OSError when it does not load."""
        library = ctypes.CDLL(str(path))
        self._configure = _bind(library, "configure")
        self._pack = _bind(library, "pack")
        self._populate = _bind(library, "populate")
        self._replay = _bind(library, "replay")
        self._replayed = {name: _bind(library, name) for name in REPLAYED}
        self._memory = Memory()
        self._scratch = Memory(forgets=True)  # of its own: what a replay writes into may look free
        self._recorder: Recorder | None = None
        self._call_as(self._replayed, self._scratch_array)

    def _call_as(self, functions: dict[str, Callable[..., int]], empty: Callable[..., Array]) -> None:
        self._matmul = functions["matmul"]
        self._embedding = functions["embedding"]
        self._norm = functions["norm"]
        self._rotary = functions["rotary"]
        self._write_kv = functions["write_kv"]
        self._attention = functions["attention"]
        self._activate = functions["activate"]
        self._greedy = functions["greedy"]
        self._take = functions["take"]
        self._empty = empty

    def _scratch_array(self, *shape: int) -> Array:
        """As `numpy.empty`; large results lie where earlier ones did, or the heap would grow around them."""
        return self._scratch.empty(shape) if math.prod(shape) >= _LARGE else np.empty(shape, FLOAT32)

    @contextlib.contextmanager
    def record(self, inputs: Iterable[Array], sizes: Mapping[str, int]) -> Iterator[Recording]:
        """See `tgi.kernels.record`."""
        recorder = Recorder(self._memory, _SIGNATURES, inputs, sizes)
        recorder.recording.run = self._replay
        self._recorder = recorder
        self._call_as({name: recorder.wrap(name) for name in self._replayed}, recorder.empty)
        try:
            yield recorder.recording
        finally:
            self._recorder = None
            self._call_as(self._replayed, self._scratch_array)

    def refreshed(self, compute: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
        """See `tgi.kernels.refreshed`."""
        return compute() if self._recorder is None else self._recorder.refreshed(compute)

    def configure(self, threads: int, *, most: str | None = None) -> str:
        """Run on `threads` threads, the caller's included.

        Returns: the last of PATHS up to `most` that runs here; without `most` the one that is fastest.
        """
        return PATHS[self._configure(threads, -1 if most is None else PATHS.index(most))]

    def populate(self, arrays: Sequence[Array], rows: Array) -> None:
        """See `tgi.kernels.populate`."""
        if not len(rows):
            return
        shapes = {array.shape for array in arrays}
        if len(shapes) != 1 or not all(array.flags.c_contiguous for array in arrays):
            raise ValueError(f"arrays must be contiguous and of one shape; given {sorted(shapes)}")
        row_bytes = arrays[0].strides[0]
        bases = np.array([where(array) for array in arrays], np.uint64)
        starts = (bases[:, None] + (rows * row_bytes).astype(np.uint64)).ravel()
        self._populate(where(starts), len(starts), row_bytes)

    def _prepared(self, weight: Matrix | PackedWeight) -> Prepared:
        """A weight for a matmul, or a table for an embedding, which reads it as stored."""
        prepared = weight.prepared.get("cpu")
        if prepared is None:
            parts, pack = (weight.parts, self._pack) if isinstance(weight, PackedWeight) else ((weight,), None)
            prepared = Prepared(parts, pack)
            weight.prepared["cpu"] = prepared
        return cast("Prepared", prepared)

    def embedding(self, ids: Array, table: Matrix) -> Array:
        """See `tgi.kernels.embedding`."""
        prepared = self._prepared(table)
        out = self._empty(ids.shape[0], table.columns)
        if self._embedding(address("ids", ids, INT32), len(ids), prepared.address, where(out)):
            low, high = int(ids.min()), int(ids.max())
            raise ValueError(f"token ids must be in [0, {table.rows}); given {low} to {high}")
        return out

    def take(self, x: Array, indices: Array) -> Array:
        """See `tgi.kernels.take`."""
        count, columns = x.shape
        out = self._empty(len(indices), columns)
        places = address("indices", indices, INT32)
        if self._take(address("x", x), count, columns, places, len(indices), where(out)):
            low, high = int(indices.min()), int(indices.max())
            raise ValueError(f"indices must be in [0, {count}); given {low} to {high}")
        return out

    def matmul(
        self, x: Array, weight: PackedWeight, *, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """See `tgi.kernels.matmul`."""
        prepared = self._prepared(weight)
        tokens, columns = x.shape
        if columns != prepared.columns:
            raise ValueError(f"`x` has {columns} columns, the weight {prepared.columns}")
        if bias is not None:
            expect("bias", bias, (prepared.rows,))
        if residual is None:
            out = self._empty(tokens, prepared.rows)
            target = where(out)
        else:
            expect("residual", residual, (tokens, prepared.rows))
            out, target = residual, address("residual", residual)
        self._matmul(
            rows("x", x), step(x, 0), tokens, columns, prepared.address, prepared.count,
            None if bias is None else address("bias", bias), target, prepared.rows, residual is not None,
        )  # fmt: skip
        return out

    def single_out(self, weight: PackedWeight, columns: Sequence[int]) -> None:
        """See `tgi.kernels.single_out`."""
        weight.outliers[:] = columns
        self._prepared(weight).single_out(weight.parts, columns)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """See `tgi.kernels.rms_norm`."""
        return self._normalise(False, x, weight, None, eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
        """See `tgi.kernels.layer_norm`."""
        return self._normalise(True, x, weight, bias, eps)

    def _normalise(self, layer: bool, x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
        width = x.shape[-1]
        expect("weight", weight, (width,))
        if bias is not None:
            expect("bias", bias, (width,))
        if x.ndim == 2:
            outer, inner, stride_outer, stride_inner = x.shape[0], 1, step(x, 0), 0
        elif x.ndim == 3:
            outer, inner, stride_outer, stride_inner = x.shape[0], x.shape[1], step(x, 0), step(x, 1)
        else:
            raise ValueError(f"`x` must have 2 or 3 dimensions; given {x.shape}")
        out = self._empty(*x.shape)
        self._norm(
            layer, rows("x", x), outer, inner, stride_outer, stride_inner, width, address("weight", weight),
            None if bias is None else address("bias", bias), eps, where(out),
        )  # fmt: skip
        return out

    def rotary(self, q: Array, k: Array, cos: Array, sin: Array, *, interleaved: bool) -> None:
        """See `tgi.kernels.rotary`."""
        expect_heads("q", q)
        expect_heads("k", k)
        tokens, heads, head_dim = q.shape
        half = cos.shape[-1]
        expect("k", k, (tokens, k.shape[1], head_dim))
        expect("cos", cos, (tokens, half))
        expect("sin", sin, (tokens, half))
        if 2 * half > head_dim:
            raise ValueError(f"cannot rotate {2 * half} dimensions of a head of {head_dim}")
        self._rotary(
            rows("q", q), heads, step(q, 0), step(q, 1), rows("k", k), k.shape[1], step(k, 0), step(k, 1),
            address("cos", cos), address("sin", sin), tokens, half, interleaved,
        )  # fmt: skip

    def write_kv(self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array) -> None:
        """See `tgi.kernels.write_kv`."""
        expect_heads("k", k)
        tokens, kv_heads, head_dim = k.shape
        blocks, block_size, cache_type = _cache(k_cache, v_cache, kv_heads, head_dim)
        expect("v", v, (tokens, kv_heads, head_dim))
        expect("slot_mapping", slot_mapping, (tokens,))
        failed = self._write_kv(
            rows("k", k), step(k, 0), step(k, 1), rows("v", v), step(v, 0), step(v, 1), where(k_cache),
            where(v_cache), cache_type, blocks * block_size, kv_heads, head_dim,
            address("slot_mapping", slot_mapping, INT64), tokens,
        )  # fmt: skip
        if failed:
            low, high = int(slot_mapping.min()), int(slot_mapping.max())
            raise ValueError(f"slots must be in [0, {blocks * block_size}); given {low} to {high}")

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        query_starts: Array,
        context_lens: Array,
        block_tables: Array,
        *,
        scale: float,
        window: int = 0,
    ) -> Array:
        """See `tgi.kernels.attention`."""
        expect_heads("q", q)
        tokens, heads, head_dim = q.shape
        kv_heads = k_cache.shape[2]
        blocks, block_size, cache_type = _cache(k_cache, v_cache, kv_heads, head_dim)
        requests, width = block_tables.shape
        expect("query_starts", query_starts, (requests + 1,))
        expect("context_lens", context_lens, (requests,))
        if heads % kv_heads or head_dim > MAX_HEAD_DIM:
            raise ValueError(f"cannot attend with {heads} heads of {head_dim} to {kv_heads} (most: {MAX_HEAD_DIM})")
        out = self._empty(tokens, heads * head_dim)
        failed = self._attention(
            rows("q", q), step(q, 0), step(q, 1), tokens, heads, kv_heads, head_dim, where(k_cache),
            where(v_cache), cache_type, blocks, block_size, address("query_starts", query_starts, INT32),
            address("context_lens", context_lens, INT32), address("block_tables", block_tables, INT32),
            requests, width, scale, window, where(out),
        )  # fmt: skip
        if failed:
            raise ValueError(
                f"queries {query_starts.tolist()} and contexts {context_lens.tolist()} do not fit {tokens} tokens and "
                f"block tables of {width} in a cache of {blocks} blocks of {block_size}"
            )
        return out

    def gated(self, gate_up: Array, activation: str) -> Array:
        """See `tgi.kernels.gated`."""
        if gate_up.shape[-1] % 2:
            raise ValueError(f"gate and up need an even number of columns; given {gate_up.shape[-1]}")
        return self._activated(gate_up, gate_up.shape[-1] // 2, True, activation)

    def activate(self, x: Array, activation: str) -> Array:
        """See `tgi.kernels.activate`."""
        return self._activated(x, x.shape[-1], False, activation)

    def _activated(self, x: Array, width: int, gated: bool, activation: str) -> Array:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation `{activation}` is unknown; known: {', '.join(ACTIVATIONS)}")
        out = self._empty(x.shape[0], width)
        self._activate(address("x", x), x.shape[0], width, gated, ACTIVATIONS.index(activation), where(out))
        return out

    def greedy(self, logits: Array) -> tuple[Array, Array]:
        """See `tgi.kernels.greedy`."""
        count, width = logits.shape
        token_ids, logprobs = np.empty(count, INT32), np.empty(count, FLOAT32)
        self._greedy(rows("logits", logits), count, step(logits, 0), width, where(token_ids), where(logprobs))
        return token_ids, logprobs


def _bind(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    function = library[f"tgi_{name}"]
    function.argtypes = [_TYPES[letter] for letter in _SIGNATURES[name]]
    function.restype = ctypes.c_int
    return cast("Callable[..., int]", function)


def _cache(k_cache: Array, v_cache: Array, kv_heads: int, head_dim: int) -> tuple[int, int, int]:
    """Blocks, slots a block and storage type of a layer's cache. Raises: ValueError when it holds other heads."""
    blocks, block_size, *inner = k_cache.shape
    if inner != [kv_heads, head_dim] or v_cache.shape != k_cache.shape or v_cache.dtype != k_cache.dtype:
        raise ValueError(
            f"caches must both be [blocks, block_size, {kv_heads}, {head_dim}] of one type; "
            f"given {facts(k_cache)} and {facts(v_cache)}"
        )
    if k_cache.dtype not in CACHE_TYPES or not (k_cache.flags.c_contiguous and v_cache.flags.c_contiguous):
        raise ValueError(f"caches must be contiguous float32, float16, or uint16 for bfloat16; given {facts(k_cache)}")
    return blocks, block_size, CACHE_TYPES[k_cache.dtype]
