"""The distance to the hardware limit: bytes and operations of prefill and decode, and what the machine could do.

A step reads every weight once, whoever shares it, and the cache of every sequence; it does two operations a weight and
token, and four a head dimension and cached token in attention. The roof is the greater of the two times (the roofline
model: Williams, Waterman and Patterson, 2009). Where the last cache holds all that a step reads, its bandwidth counts,
not the memory's. docs/bench.md explains and gives an example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi.bench.results import CACHED, Load, MachineRoof, PhaseRoof, Step
from tgi.bench.workload import BATCH
from tgi.checkpoint import open_checkpoint
from tgi.errors import ModelError

_FLOATS = ("F64", "F32", "F16", "BF16")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_PLAIN = 2 << 10  # tokens of one step at most, where a server does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What one step of a model reads and does, whatever the machine."""

    weight_bytes: float  # read by every step, the output layer included
    layer_parameters: float  # multiplied for every token
    head_parameters: float  # multiplied for tokens whose next one is wanted
    expert_bytes: float  # of all experts together; a part of the above
    expert_share: float  # experts used for a token, of all; 1 where there are none
    kv_bytes: float  # of cache a cached token
    attention_operations: float  # of one token for each cached one
    integers: bool  # whether most weights are stored in 8 bits or fewer, so that 8-bit arithmetic is the limit
    step_tokens: int  # most tokens of one step


def model_cost(path: Path, *, kv_item_bytes: int = 2, step_tokens: int | None = None) -> ModelCost:
    """The cost of the model at `path`, from its configuration and the weights as stored. Raises: ModelError."""
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    weight_bytes = layer = head = embedding = embedding_bytes = expert_bytes = experts = quantized = 0.0
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        count, size = float(math.prod(tensor.shape)), float(tensor.data.size)
        if name.endswith(_EMBEDDINGS):
            embedding, embedding_bytes = count, size
            continue
        weight_bytes += size
        if ".experts." in name:
            experts, expert_bytes = experts + count, expert_bytes + size
        elif "lm_head" in name or name.startswith("output."):
            head += count
        elif len(tensor.shape) > 1:
            layer += count
        quantized += size if tensor.layout not in _FLOATS else 0.0
    if not head:  # the embeddings are the output layer as well
        head, weight_bytes = embedding, weight_bytes + embedding_bytes
    shape = _shape(config, path)
    share = _expert_share(config) if experts else 1.0
    return ModelCost(
        weight_bytes=weight_bytes,
        layer_parameters=layer + experts * share,
        head_parameters=head,
        expert_bytes=expert_bytes,
        expert_share=share,
        kv_bytes=2.0 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * kv_item_bytes,
        attention_operations=4.0 * shape["layers"] * shape["heads"] * shape["head_dim"],
        integers=quantized > weight_bytes / 2,
        step_tokens=step_tokens or _PLAIN,
    )


def roof_decode(cost: ModelCost, machine: MachineRoof, *, sequences: float, context: float) -> PhaseRoof:
    """The limit of decoding `sequences` at once, each with `context` tokens in its cache; measured figures are 0."""
    used = min(1.0, cost.expert_share * sequences)  # experts that some sequence needs
    weights = cost.weight_bytes - cost.expert_bytes * (1 - used)
    size = weights + sequences * context * cost.kv_bytes
    operations = sequences * (2 * (cost.layer_parameters + cost.head_parameters) + context * cost.attention_operations)
    return _phase("decode", cost, machine, size, operations, steps=1, tokens=sequences, batch=sequences)


def roof_prefill(cost: ModelCost, machine: MachineRoof, *, prompts: int, tokens: float) -> PhaseRoof:
    """The limit of computing `prompts` prompts of `tokens` tokens together; measured figures are 0."""
    total = prompts * tokens
    steps = math.ceil(total / cost.step_tokens)
    size = steps * cost.weight_bytes + total * cost.kv_bytes
    attention = prompts * tokens * (tokens + 1) / 2 * cost.attention_operations  # of each token to those before it
    operations = 2 * total * cost.layer_parameters + 2 * prompts * cost.head_parameters + attention
    batch = min(total, cost.step_tokens)
    return _phase("prefill", cost, machine, size, operations, steps=steps, tokens=total, batch=batch)


def roofs(step: Step, cost: ModelCost, machine: MachineRoof) -> tuple[PhaseRoof, ...]:
    """How near each phase of a step came to the limit; phases whose time the client cannot tell apart are left out."""
    found = []
    load = step.load
    if load.kind == BATCH and step.batch is not None and load.prompt_tokens and load.output_tokens:
        size = load.concurrency or 1
        limit = roof_prefill(cost, machine, prompts=size, tokens=load.prompt_tokens)
        found.append(measured(limit, step.batch.prefill_rate.p50))
        if load.output_tokens > 1:
            context = load.prompt_tokens + load.output_tokens / 2
            limit = roof_decode(cost, machine, sequences=size, context=context)
            found.append(measured(limit, step.batch.decode_rate.p50))
        return tuple(found)
    summary = step.summary
    good = [trace for trace in step.traces if trace.error is None and trace.token_times_s]
    # Beside other requests the time to the first token is waiting as well as computing.
    if good and summary.ttft_ms is not None and alone(load) and not load.shared_prefix_tokens:
        tokens = sum(trace.prompt_tokens for trace in good) / len(good)
        limit = roof_prefill(cost, machine, prompts=1, tokens=tokens)
        found.append(measured(limit, 1e3 * tokens / summary.ttft_ms.p50))
    if good and summary.tpot_ms is not None and summary.tpot_ms.p50 > 0:
        decoding = sum(trace.token_times_s[-1] - trace.token_times_s[0] for trace in good)
        sequences = max(1.0, decoding / summary.duration_s)
        context = sum(trace.prompt_tokens + trace.output_tokens / 2 for trace in good) / len(good)
        limit = roof_decode(cost, machine, sequences=sequences, context=context)
        found.append(measured(limit, 1e3 * sequences / summary.tpot_ms.p50))
    return tuple(found)


def alone(load: Load) -> bool:
    """Whether the load never has two requests under way."""
    return load.concurrency == 1 and load.turns == 1


def measured(limit: PhaseRoof, tokens_per_s: float) -> PhaseRoof:
    """The limit with what was reached."""
    return PhaseRoof(
        phase=limit.phase, tokens_per_s=tokens_per_s, roof_tokens_per_s=limit.roof_tokens_per_s,
        percent=100 * tokens_per_s / limit.roof_tokens_per_s, bound=limit.bound, bytes_per_token=limit.bytes_per_token,
        operations_per_token=limit.operations_per_token, batch=limit.batch,
    )  # fmt: skip


def bandwidth(machine: MachineRoof, size: float) -> float:
    """Bytes a second at most, for a step that reads `size` bytes which the one before has read as well."""
    held = [rate for least, rate in machine.caches if least <= size]
    return held[-1] if held else max((rate for _, rate in machine.caches), default=machine.bandwidth)


def _phase(
    phase: str, cost: ModelCost, machine: MachineRoof, size: float, operations: float, *,
    steps: int, tokens: float, batch: float,
) -> PhaseRoof:  # fmt: skip
    rate = machine.float32_rate
    if cost.integers and machine.integer_rate is not None:
        rate = machine.integer_rate
    fastest = bandwidth(machine, size / steps)
    reading, computing = size / fastest, operations / rate
    source = "cache" if fastest > CACHED * machine.bandwidth else "memory"
    return PhaseRoof(
        phase=phase, tokens_per_s=0.0, roof_tokens_per_s=tokens / max(reading, computing), percent=0.0,
        bound=source if reading >= computing else "compute", bytes_per_token=size / tokens,
        operations_per_token=operations / tokens, batch=batch,
    )  # fmt: skip


def _shape(config: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Layers, heads and their width, under the names that configurations use."""
    layers = _first(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = _first(config, "num_attention_heads", "n_head", "n_heads")
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    if not layers or not heads or not hidden:
        raise ModelError(f"the configuration of `{path}` does not tell layers, heads and width", exit_code=16)
    kv_heads = (
        1 if config.get("multi_query") is True else _first(config, "num_key_value_heads", "num_kv_heads") or heads
    )
    return {
        "layers": layers, "heads": heads, "kv_heads": kv_heads,
        "head_dim": _first(config, "head_dim") or hidden // heads,
    }  # fmt: skip


def _expert_share(config: Mapping[str, Any]) -> float:
    used = _first(config, "num_experts_per_tok", "moe_top_k")
    there = _first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return used / there if used and there else 1.0


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), None)
