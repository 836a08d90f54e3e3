"""What the engine's memory is spent on: weights, the largest step, and the rest for the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from tgi.config import Config
from tgi.errors import ConfigError, ModelError
from tgi.layers.model import ModelConfig
from tgi.runner.ledger import Choice, MemoryLedger

LOGITS_ROWS = 64
"""Rows whose logits exist at one time; a step with more goes through them in slices."""

DEFAULT_STEP_TOKENS = 256
MAX_DEFAULT_CACHE = 4 << 30  # bytes: on a CPU more is seldom used, and memory is shared with other programs
MIN_BLOCKS = 2  # a prompt token and an answer, whatever the block size


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The limits the engine works within."""

    num_blocks: int  # lendable; the scratch block comes on top
    block_size: int  # tokens
    max_total_tokens: int
    max_step_tokens: int
    max_rows: int
    ledger: MemoryLedger


def plan_memory(
    model: ModelConfig, config: Config, *, weight_bytes: int, kv_item_bytes: int, available: int | None = None
) -> MemoryPlan:
    """Divide the memory. `available` is in bytes; None asks the machine.

    The cache takes at most half of what weights and the largest step leave, at most 4 GiB, and never more than all
    rows at full length need; `--max-batch-total-tokens` overrides the first two, `--max-total-tokens` raises them.

    Raises: ModelError (17) with the figures, when the cache is too small for what was asked or for anything at all;
    ConfigError for a length that learnt positions do not reach.
    """
    limits, batching = config.limits, config.batching
    if available is None:
        available = available_memory()
    longest = limits.max_total_tokens or model.max_positions
    if model.learned_positions and longest > model.max_positions:
        raise ConfigError(
            f"`--max-total-tokens` must be <= {model.max_positions}, the last position of the model. Given: {longest}",
            hint=f"use --max-total-tokens {model.max_positions}, or leave the flag out",
        )
    block_size = batching.block_size
    max_rows = batching.max_batch_size or limits.max_concurrent_requests
    max_step_tokens = batching.max_batch_prefill_tokens or DEFAULT_STEP_TOKENS
    activations = activation_bytes(model, max_step_tokens)
    block_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_dim * block_size * kv_item_bytes
    left = int(available * batching.cuda_memory_fraction) - weight_bytes - activations
    needed = max(MIN_BLOCKS, _blocks(limits.max_total_tokens or 0, block_size))
    if batching.max_batch_total_tokens is not None:
        num_blocks = max(needed, _blocks(batching.max_batch_total_tokens, block_size))
        needed = num_blocks
    else:
        wanted = max(min(left // 2, MAX_DEFAULT_CACHE) // block_bytes, needed)
        num_blocks = min(wanted, max(MIN_BLOCKS, max_rows * _blocks(longest, block_size)))
    if needed * block_bytes > left:
        raise _too_little(needed, block_bytes, block_size, available, weight_bytes, activations)
    capacity = num_blocks * block_size
    return MemoryPlan(
        num_blocks=num_blocks,
        block_size=block_size,
        max_total_tokens=min(longest, capacity),
        max_step_tokens=min(max_step_tokens, capacity),
        max_rows=max_rows,
        ledger=MemoryLedger(
            weights=weight_bytes,
            activations=activations,
            kv_block=block_bytes,
            kv_cache=num_blocks * block_bytes,
            available=available,
            choices=_choices(model, config, capacity=capacity, half=left // 2 // block_bytes * block_size),
        ),
    )


def _choices(model: ModelConfig, config: Config, *, capacity: int, half: int) -> tuple[Choice, ...]:
    """Why the limits are what they are. `capacity` is the cache's, `half` what half of the free memory would hold."""
    limits, batching = config.limits, config.batching
    longest, step = limits.max_total_tokens, batching.max_batch_prefill_tokens
    asked = "as asked"
    if batching.max_batch_total_tokens is not None:
        cache_reason = asked if capacity - batching.block_size < batching.max_batch_total_tokens else (
            "raised: one request of --max-total-tokens has to fit")  # fmt: skip
    elif longest is not None and capacity > half:
        cache_reason = "one request of --max-total-tokens needs as much"
    elif half - batching.block_size <= capacity:
        cache_reason = "half of the memory that weights and a step leave"
    elif (batching.max_batch_size or limits.max_concurrent_requests) * (longest or model.max_positions) <= capacity:
        cache_reason = "all requests at full length need no more"
    else:
        cache_reason = f"{_mebibytes(MAX_DEFAULT_CACHE)}, the most that is taken unasked"
    total = longest or model.max_positions
    total_reason = asked if longest else "the model's longest sequence"
    if total > capacity:
        total, total_reason = capacity, "the KV cache holds no more"
    step_reason = asked if step else "default on a CPU: longer steps keep running requests waiting"
    if (step or DEFAULT_STEP_TOKENS) > capacity:
        step_reason = "the KV cache holds no more"
    size_reason = asked if batching.max_batch_size else "as many as --max-concurrent-requests"
    caching = ("on", "default") if batching.prefix_caching else ("off", asked)
    rows = batching.max_batch_size or limits.max_concurrent_requests
    return (
        Choice("attention", "paged", "the CPU kernels read the KV cache in blocks; other kinds need a GPU"),
        Choice("prefix-caching", *caching),
        Choice("max-batch-prefill-tokens", str(min(step or DEFAULT_STEP_TOKENS, capacity)), step_reason),
        Choice("max-batch-total-tokens", str(capacity), cache_reason),
        Choice("max-total-tokens", str(total), total_reason),
        Choice("max-batch-size", str(rows), size_reason),
    )


def activation_bytes(model: ModelConfig, step_tokens: int) -> int:
    """Bytes the largest step needs beside weights and cache: hidden states, the widest layer, logits being sampled."""
    attention = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    hidden = 4 * model.hidden_size + attention + 3 * model.intermediate_size
    # Logits, a changed copy, their softmax and a mask, and running sums in float64.
    sampling = model.vocab_size * (3 * 4 + 1 + 8)
    return step_tokens * hidden * 4 + LOGITS_ROWS * sampling


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still take: what the machine has, and what its control group allows."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return available  # no control group of version 2: the machine's figure is all there is
    if limit == "max":
        return available
    # Cached file pages count as used, and yet are given back on demand.
    return min(available, int(limit) - used + int(statistics.get("inactive_file", 0)))


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


def _too_little(
    blocks: int, block_bytes: int, block_size: int, available: int, weights: int, activations: int
) -> ModelError:
    figures = f"{_mebibytes(available)} are free, weights take {_mebibytes(weights)}, a step {_mebibytes(activations)}"
    return ModelError(
        f"not enough memory: the KV cache needs {_mebibytes(blocks * block_bytes)} for {blocks * block_size} tokens; "
        + figures,
        hint="use a smaller --max-total-tokens, --max-batch-total-tokens or --max-batch-prefill-tokens, or a smaller "
        "model",
        exit_code=17,
    )


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
