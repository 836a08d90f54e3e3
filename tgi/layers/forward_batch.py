"""What one forward pass works on: the step plan as tensors on the device, and the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """A `StepPlan` on the device; the fields and shapes are those of `runner.plan.StepPlan`. Passed down by hand."""

    input_ids: Tensor  # [T] int32
    positions: Tensor  # [T] int32
    slot_mapping: Tensor  # [T] int64
    query_starts: Tensor  # [B+1] int32
    context_lens: Tensor  # [B] int32
    block_tables: Tensor  # [B, M] int32
    rope_variants: Tensor  # [B] int32
    logits_indices: Tensor  # [L] int32


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of one layer: each [num_blocks, block_size, kv_heads, head_dim], float32, float16 or bfloat16."""

    keys: Tensor
    values: Tensor
