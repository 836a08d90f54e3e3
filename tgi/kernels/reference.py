"""Torch operations: the definition of every kernel, and what runs where the native library cannot.

It keeps the promise of `tgi.kernels` (one order of reduction an element) the slow way: whatever torch may round
differently for another number of rows or another place in memory (matrix products, sums, exponentials) is computed
one row at a time, on operands of the same shape in freshly allocated memory, by one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tgi.checkpoint.blocks import dequantize
from tgi.kernels.weights import Matrix, PackedWeight

# Values dequantised at once: 16 MiB of float32.
_TILE_VALUES = 1 << 22

_GROUP = 32  # activations that share a scale
_SMALLEST = 2.0**-100

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def embedding(ids: Tensor, table: Matrix) -> Tensor:
    """See `tgi.kernels.embedding`."""
    wanted = ids.long().numpy()
    if ids.numel() and not (wanted.min() >= 0 and wanted.max() < table.rows):
        raise ValueError(f"token ids must be in [0, {table.rows}); given {wanted.min()} to {wanted.max()}")
    if not ids.numel() or not table.columns:
        return torch.zeros(ids.numel(), table.columns)
    stored = table.data.reshape(table.rows, -1)[wanted]
    return torch.from_numpy(dequantize(table.layout, stored.reshape(-1), table.columns))


def take(x: Tensor, indices: Tensor) -> Tensor:
    """See `tgi.kernels.take`."""
    if indices.numel() and not (indices.min() >= 0 and indices.max() < len(x)):
        raise ValueError(f"indices must be in [0, {len(x)}); given {indices.min()} to {indices.max()}")
    return x[indices.long()]


def matmul(x: Tensor, weight: PackedWeight, *, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """See `tgi.kernels.matmul`."""
    out = torch.empty(x.shape[0], weight.rows)
    rows = [row.clone() for row in x]
    integers = any(part.in_integers for part in weight.parts)
    rounded = [round_activations(row, weight.outliers) for row in rows] if integers else rows
    start = 0
    for part in weight.parts:
        outliers = weight.outliers if part.in_integers and part.source is not None else []
        before = torch.from_numpy(part.values(outliers))
        for first, tile in _tiles(part):
            if outliers:
                tile[:, outliers] = before[first : first + len(tile)]
            for token, row in enumerate(rounded if part.in_integers else rows):
                out[token, start : start + len(tile)] = torch.mv(tile, row)
            start += len(tile)
    if bias is not None:
        out += bias
    return out if residual is None else residual.add_(out)


def single_out(weight: PackedWeight, columns: Sequence[int]) -> None:
    """See `tgi.kernels.single_out`."""
    weight.outliers[:] = columns


def round_activations(row: Tensor, outliers: Sequence[int] = ()) -> Tensor:
    """What 8-bit activations stand for: each group of 32 is whole multiples, -127 to 127, of a step of its own.

    The step is the largest magnitude / 127; ties round to even. A group below 2^-100 is zeros; one with a value that
    is not finite is NaN throughout. Columns in `outliers` keep their values, and count as zero in their groups.

    Shapes: row [K] float32; returns [K].
    """
    within = row.clone()
    within[list(outliers)] = 0.0
    groups = F.pad(within, (0, -len(row) % _GROUP)).view(-1, _GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    # NaN for a value that is not finite: amax passes a NaN on, and infinity is made one.
    largest = torch.where(torch.isfinite(largest), largest, torch.nan)
    integers = torch.round(groups * (127.0 / largest))
    values = torch.where(largest < _SMALLEST, 0.0, integers * (largest / 127.0))
    found = values.reshape(-1)[: len(row)].clone()
    found[list(outliers)] = row[list(outliers)]
    return found


def _tiles(matrix: Matrix) -> Iterator[tuple[int, Tensor]]:
    """The rows of a stored matrix in float32, a few at a time behind the first's number; cuts depend on the matrix."""
    step = max(1, _TILE_VALUES // matrix.columns)
    stored = matrix.data.reshape(matrix.rows, -1)
    for start in range(0, matrix.rows, step):
        values = dequantize(matrix.layout, stored[start : start + step].reshape(-1), matrix.columns)
        # torch aligns what it allocates; numpy does not, and the product may depend on the alignment.
        yield start, torch.from_numpy(values).clone()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `tgi.kernels.rms_norm`."""
    return _by_row(x, lambda row: row * torch.rsqrt((row * row).mean() + eps) * weight)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `tgi.kernels.layer_norm`."""
    return _by_row(x, lambda row: F.layer_norm(row, row.shape, weight, bias, eps))


def _by_row(x: Tensor, function: Callable[[Tensor], Tensor], columns: int | None = None) -> Tensor:
    """Apply `function` to every vector along the last dimension, alone; returns `columns` values for each."""
    width = x.shape[-1] if columns is None else columns
    out = torch.empty(*x.shape[:-1], width)
    for row, result in zip(x.reshape(-1, x.shape[-1]), out.view(-1, width), strict=True):
        result.copy_(function(row.clone()))
    return out


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> None:
    """See `tgi.kernels.rotary`."""
    half = cos.shape[-1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    )
    c, s = cos[:, None, :], sin[:, None, :]
    for heads in (q, k):
        a, b = heads[..., first].clone(), heads[..., second].clone()
        heads[..., first] = a * c - b * s
        heads[..., second] = b * c + a * s


def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """See `tgi.kernels.write_kv`."""
    slots = slot_mapping.long()
    count = k_cache.shape[0] * k_cache.shape[1]
    if slots.numel() and not (int(slots.min()) >= 0 and int(slots.max()) < count):
        raise ValueError(f"slots must be in [0, {count}); given {int(slots.min())} to {int(slots.max())}")
    for values, cache in ((k, k_cache), (v, v_cache)):
        cache.view(-1, *cache.shape[2:])[slots] = values.to(cache.dtype)


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    *,
    scale: float,
    window: int = 0,
) -> Tensor:
    """See `tgi.kernels.attention`."""
    tokens, heads, head_dim = q.shape
    block_size, kv_heads = k_cache.shape[1:3]
    out = torch.empty(tokens, heads * head_dim)
    starts, contexts = query_starts.tolist(), context_lens.tolist()
    for request, context in enumerate(contexts):
        first, last = starts[request], starts[request + 1]
        blocks = block_tables[request, : -(-context // block_size)].long()
        keys = k_cache[blocks].flatten(0, 1)[:context].float()  # [context, kv_heads, head_dim]
        values = v_cache[blocks].flatten(0, 1)[:context].float()
        for token in range(first, last):
            stop = context - (last - token) + 1  # positions this token sees end here
            start = max(0, stop - window) if window else 0
            # Copies of the same shape whatever the chunk: the products below cannot tell how the prompt was cut.
            key, value = (part[start:stop].transpose(0, 1).clone() for part in (keys, values))
            query = q[token].reshape(kv_heads, -1, head_dim).clone()
            weights = torch.softmax(torch.matmul(query, key.transpose(1, 2)) * scale, dim=-1)
            out[token] = torch.matmul(weights, value).reshape(-1)
    return out


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """See `tgi.kernels.gated`."""
    half = gate_up.shape[-1] // 2
    act = _ACTIVATIONS[activation]
    return _by_row(gate_up, lambda row: act(row[:half].clone()) * row[half:], half)


def activate(x: Tensor, activation: str) -> Tensor:
    """See `tgi.kernels.activate`."""
    return _by_row(x, _ACTIVATIONS[activation])


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """See `tgi.kernels.greedy`."""
    token_ids = torch.empty(logits.shape[0], dtype=torch.int32)
    logprobs = torch.empty(logits.shape[0])
    for index, row in enumerate(logits):
        best = torch.argmax(row)
        token_ids[index] = best
        logprobs[index] = -torch.log(torch.exp(row.clone() - row[best]).sum())
    return token_ids, logprobs
