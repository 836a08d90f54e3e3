"""Every numeric operation a model needs, behind one interface, dispatched on what is installed.

`reference.py` (torch operations) defines each result, and computes it where there is no native library; `cpu.py` calls
that, the library of `native/`, and needs no torch. Operations take and give arrays (`arrays.py`). All activations are
float32 between operations. On the CPU each output element is reduced in one order that depends on nothing but the
element: not on the number of rows, how a prompt was chunked, which block a token lies in, the thread count or the
neighbours in the batch.

T tokens; `hd` is the size of a head. An array is contiguous unless said otherwise; every function takes T = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from tgi.kernels.arrays import Array
from tgi.kernels.dispatch import DISPATCH, configure
from tgi.kernels.replay import Recording
from tgi.kernels.weights import Matrix, PackedWeight

__all__ = [
    "Array",
    "Matrix",
    "PackedWeight",
    "Recording",
    "activate",
    "attention",
    "configure",
    "embedding",
    "gated",
    "greedy",
    "layer_norm",
    "matmul",
    "populate",
    "record",
    "refreshed",
    "rms_norm",
    "rotary",
    "single_out",
    "take",
    "write_kv",
]


def embedding(ids: Array, table: Matrix) -> Array:
    """The stored rows of these tokens, in float32.

    Shapes: ids [T] int32; returns [T, table.columns].
    Raises: ValueError for an id outside the table.
    """
    return DISPATCH.backend.embedding(ids, table)


def take(x: Array, indices: Array) -> Array:
    """Some rows, in this order.

    Shapes: x [T, H]; indices [L] int32; returns [L, H].
    Raises: ValueError for an index outside x.
    """
    return DISPATCH.backend.take(x, indices)


def matmul(x: Array, weight: PackedWeight, *, bias: Array | None = None, residual: Array | None = None) -> Array:
    """x times the transposed weight, plus `bias`; added in place to `residual`, which is then what is returned.

    Exact in the stored values: they are what the `gguf` package makes of them, and products are as close as float32's.
    Parts that say `integer` are multiplied by activations in 8 bits (`reference.round_activations`): the integers'
    products are added exactly, the groups' scaled sums in float32. Columns that were singled out are in float32.

    Shapes: x [T, K], rows may be strided; bias [N]; residual and the result [T, N]: parts' outputs side by side.
    """
    return DISPATCH.backend.matmul(x, weight, bias=bias, residual=residual)


def single_out(weight: PackedWeight, columns: Sequence[int]) -> None:
    """Multiply these columns of parts that say `integer` in float32 from now on, and leave them out of their groups.

    A few channels of activations are so large that the 31 others of their group would be rounded to nothing much
    (Dettmers et al., "LLM.int8()", 2022). They meet weights as they were before a conversion (`Matrix.source`).

    Raises: ValueError for a column that does not exist, or for columns that are not ascending.
    """
    wanted = list(columns)
    if wanted != sorted(set(wanted)) or (wanted and not (wanted[0] >= 0 and wanted[-1] < weight.columns)):
        raise ValueError(f"columns must ascend within [0, {weight.columns}); given {wanted}")
    DISPATCH.backend.single_out(weight, wanted)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    Shapes: x [T, H] or [T, heads, hd], only the last dimension need be contiguous; weight [H] or [hd]; returns x's
    shape, contiguous.
    """
    return DISPATCH.backend.rms_norm(x, weight, eps)


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension; shapes as `rms_norm`."""
    return DISPATCH.backend.layer_norm(x, weight, bias, eps)


def rotary(q: Array, k: Array, cos: Array, sin: Array, *, interleaved: bool) -> None:
    """Rotate the first d dimensions of every head, in place.

    Pairs are (i, i + d/2), or (2i, 2i+1) when `interleaved`; a pair (a, b) becomes (a cos - b sin, b cos + a sin).

    Shapes: q [T, heads, hd] and k [T, kv_heads, hd], only the last dimension need be contiguous; cos, sin [T, d/2].
    """
    DISPATCH.backend.rotary(q, k, cos, sin, interleaved=interleaved)


def write_kv(k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array) -> None:
    """Put this step's keys and values into their slots of the paged cache, rounded to its type.

    Shapes: k, v [T, kv_heads, hd], only the last dimension need be contiguous; caches [blocks, block_size, kv_heads,
    hd] float32, float16, or uint16 that holds bfloat16; slot_mapping [T] int64, block id x block_size + offset.
    Raises: ValueError for a slot outside the cache; nothing is written then.
    """
    DISPATCH.backend.write_kv(k, v, k_cache, v_cache, slot_mapping)


def attention(
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
    """Causal attention of this step's queries over the paged cache.

    This step's keys and values must already be written (see `write_kv`). The queries of request b are the last
    `query_starts[b + 1] - query_starts[b]` positions of its context. Head h reads kv head h // (heads / kv_heads).

    Shapes: q [T, heads, hd], only the last dimension need be contiguous; caches as in `write_kv`; query_starts [B+1],
    context_lens [B], block_tables [B, M], all int32; returns [T, heads * hd].
    Over a bfloat16 cache the native library rounds queries and weights to bfloat16 as well; sums are in float32.

    Units:  `scale` multiplies q.k before softmax; `window` counts tokens, the query's own included; 0 is unlimited.
    Raises: ValueError when a table or a length does not fit the cache.
    """
    return DISPATCH.backend.attention(
        q, k_cache, v_cache, query_starts, context_lens, block_tables, scale=scale, window=window
    )


def gated(gate_up: Array, activation: str) -> Array:
    """act(gate) * up, where gate is the first half of the columns and up the second.

    Shapes: gate_up [T, 2I]; returns [T, I]. `activation`: "silu", "gelu", "gelu_tanh" or "relu".
    """
    return DISPATCH.backend.gated(gate_up, activation)


def activate(x: Array, activation: str) -> Array:
    """act(x), a new array; `activation` as in `gated`. Shapes: x [T, I]."""
    return DISPATCH.backend.activate(x, activation)


def greedy(logits: Array) -> tuple[Array, Array]:
    """The most likely token of each row, and the natural logarithm of its softmax probability.

    The lowest id wins a tie. A row with a NaN or a +inf, or of -inf only, has log-probability NaN; its token id means
    nothing, but is in range.

    Shapes: logits [L, V]; returns token_ids [L] int32, logprobs [L] float32.
    """
    return DISPATCH.backend.greedy(logits)


def populate(arrays: Sequence[Array], rows: Array) -> None:
    """Have the system hand out the memory of `rows` [K] int64 of these arrays now, by all threads.

    What is first written page by page waits for each. Values stay; does nothing where torch computes, or the system
    knows no such request. Raises: ValueError unless all are contiguous and of one shape.
    """
    if DISPATCH.native is not None and DISPATCH.backend is DISPATCH.native:
        DISPATCH.native.populate(arrays, rows)


def record(inputs: Iterable[Array], **sizes: int) -> AbstractContextManager[Recording] | None:
    """Keep the kernel calls made inside, to be made by `Recording.replay`; None where torch computes.

    Nothing is computed inside: results hold anything. `inputs` are the arrays that hold what differs from step to step.
    They, weights and caches must outlive the recording, and stay where they are. `sizes` are the most tokens, requests
    and so on, no two equal: a replay may name fewer of each. See `tgi.kernels.replay`.
    """
    native = DISPATCH.native if DISPATCH.backend is DISPATCH.native else None
    return None if native is None else native.record(inputs, sizes)


def refreshed(compute: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
    """What `compute` returns. It may use numpy, and only arrays a step begins with: a replay calls it first, again."""
    return compute() if DISPATCH.native is None else DISPATCH.native.refreshed(compute)
