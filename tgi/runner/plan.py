"""The contract between the engine, which decides, and the runner, which computes. Host arrays only, no torch.

T tokens, B requests, L logits rows, M blocks a request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tgi.sampling import SamplingParams, TopTokens

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowState:
    """Everything the sampler needs to know of a request that takes a row: enough to rebuild all sampling state."""

    row: int
    sampling: SamplingParams
    prompt_ids: Int32  # tokens the client sent
    output_ids: Int32  # tokens generated so far (not empty after a preemption or a restart)
    top_tokens: int  # beside each token that is chosen or, with `prompt_logprobs`, scored
    prompt_logprobs: bool
    stop_ids: tuple[int, ...] = ()  # tokens that end the request


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: which tokens of which requests are computed, where their keys and values go, what is sampled."""

    input_ids: Int32  # [T] requests back to back, any mix of prefill and decode
    positions: Int32  # [T]
    slot_mapping: Int64  # [T] block_id * block_size + offset
    query_starts: Int32  # [B+1] request b owns tokens query_starts[b]:query_starts[b+1]
    context_lens: Int32  # [B] tokens in the cache after this step
    block_tables: Int32  # [B, M] block 0 is scratch, for padding
    rope_variants: Int32  # [B] 0 unless a length-dependent RoPE scaling asks for another table
    logits_indices: Int32  # [L] token indices that need logits, ascending
    logits_rows: Int32  # [L] sampler row of each
    sample: npt.NDArray[np.bool_]  # [L] True: choose a token; False: only report the prompt token's log-probability
    targets: Int32  # [L] prompt token that follows (log-probability wanted) where `sample` is False; else -1
    started: tuple[RowState, ...] = ()  # rows whose sampling state begins with this step
    ended: tuple[int, ...] = ()  # rows whose sampling state ended before this step

    def repeated(self, token_ids: Int32, slot_mapping: Int64, block_tables: Int32) -> StepPlan:
        """The next step, where every request decoded one token in this one and decodes another: `token_ids`."""
        return StepPlan(
            input_ids=token_ids,
            positions=self.context_lens,
            slot_mapping=slot_mapping,
            query_starts=self.query_starts,
            context_lens=self.context_lens + np.int32(1),
            block_tables=block_tables,
            rope_variants=self.rope_variants,
            logits_indices=self.logits_indices,
            logits_rows=self.logits_rows,
            sample=self.sample,
            targets=self.targets,
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step produced, one entry a logits row, in the plan's order."""

    rows: Int32  # [L]
    token_ids: Int32  # [L] chosen token, or the plan's target where nothing was sampled
    logprobs: Float32  # [L] of token_ids; NaN logits are reported in `failed`
    top: dict[int, TopTokens] = field(default_factory=dict)  # entry -> most likely tokens, where the row wants them
    failed: dict[int, str] = field(default_factory=dict)  # entry -> reason; only that request fails
    forward_s: float = 0.0
    sample_s: float = 0.0
