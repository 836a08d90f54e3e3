"""What one forward pass works on: the step plan as arrays on the device, and the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from tgi.kernels import Array


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """A `StepPlan` on the device; the fields and shapes are those of `runner.plan.StepPlan`. Passed down by hand."""

    input_ids: Array  # [T] int32
    positions: Array  # [T] int32
    slot_mapping: Array  # [T] int64
    query_starts: Array  # [B+1] int32
    context_lens: Array  # [B] int32
    block_tables: Array  # [B, M] int32
    rope_variants: Array  # [B] int32
    logits_indices: Array | None  # [L] int32; None: all tokens


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of one layer: each [num_blocks, block_size, kv_heads, head_dim], float32, float16 or uint16.

    The last holds brain floats, see `tgi.kernels.arrays`.
    """

    keys: Array
    values: Array
