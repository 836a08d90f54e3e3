"""What crosses the socket between the front end and the engine.

Front end -> engine: `AddRequest`, `Abort`, `Shutdown`. Engine -> front end: `EngineReady`, `StepBegins`,
`StepOutput`, `RequestFailed`, `EngineFailed`. Columns are raw little-endian bytes, viewed with `numpy.frombuffer`.
"""

from __future__ import annotations

import enum

import msgspec

from tgi.runner.ledger import MemoryLedger as MemoryLedger
from tgi.sampling import NOT_NUMBERS as NOT_NUMBERS
from tgi.sampling import SamplingParams, TopTokens


class FinishReason(enum.IntEnum):
    """Why a request ended, as the engine sees it; stop sequences are found by the front end."""

    NONE = 0
    LENGTH = 1
    STOP_ID = 2


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence to generate, complete in itself: resubmitting it with `output_ids` continues it exactly."""

    id: int  # unique in this server
    prompt_ids: bytes  # int32 column, after truncation
    sampling: SamplingParams
    max_new_tokens: int  # counts output_ids too
    stop_ids: tuple[int, ...] = ()  # empty: end-of-sequence is ignored
    output_ids: bytes = b""  # int32 column: tokens already given to the client by an earlier engine
    top_tokens: int = 0  # how many of the most likely tokens to report beside each reported token
    prompt_logprobs: bool = False  # report prompt tokens too, with the first output token
    cache_salt: str = ""  # requests share prefix blocks only with requests of the same salt


class AddRequest(msgspec.Struct, frozen=True, tag="add"):
    """Put a request at the end of the waiting queue."""

    request: EngineRequest


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget these requests; blocks and rows are free before the next plan. Unknown ids are ignored."""

    ids: tuple[int, ...]


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Leave the loop now and exit 0."""


ToEngine = AddRequest | Abort | Shutdown


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine's first message: it can generate, within these limits."""

    model_type: str
    dtype: str
    device: str
    quantize: str | None
    kernels: str  # which kernels run: "avx512_bf16", "avx512", "avx2", "portable", "torch"
    vocab_size: int  # width of the logits
    num_blocks: int  # lendable KV blocks
    block_size: int  # tokens a block
    max_total_tokens: int  # largest prompt + output one request may reach
    max_step_tokens: int  # token budget of a step
    max_rows: int  # requests running at once
    memory: MemoryLedger
    load_s: float
    warmup_s: float


class StepBegins(msgspec.Struct, frozen=True, tag="begins"):
    """These requests leave the waiting queue for the step that begins now.

    Sent before every step with newcomers, so that the front end knows the members of a step that kills the engine
    without a last word.
    """

    ids: tuple[int, ...]


class StepStats(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's gauges after a step, and what the step did."""

    waiting: int
    running: int
    free_blocks: int  # lendable now, cached prefix blocks included
    cached_tokens: int  # prompt tokens of this step's newcomers found in the prefix cache
    preemptions: int  # in this step
    prefill_tokens: int
    decode_tokens: int
    forward_s: float
    sample_s: float
    started_ids: tuple[int, ...] = ()  # requests that left the waiting queue in this step


class StepOutput(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """The tokens one step produced. Entry i of every column belongs to the same token."""

    request_ids: bytes  # int64
    indices: bytes  # int32, position in the request's output: 0 is its first token
    token_ids: bytes  # int32
    logprobs: bytes  # float32, natural logarithm, after processors
    finish: bytes  # uint8, FinishReason
    top: dict[int, TopTokens] = {}  # entry -> its most likely tokens
    prompt_logprobs: dict[int, bytes] = {}  # entry -> float32 column over the prompt; the first value is NaN
    prompt_top: dict[int, dict[int, TopTokens]] = {}  # entry -> position in the prompt -> the tokens likely there
    stats: StepStats


class RequestFailed(msgspec.Struct, frozen=True, tag="request_failed"):
    """These requests failed and are forgotten; the engine goes on."""

    ids: tuple[int, ...]
    reason: str


class Idle(msgspec.Struct, frozen=True, tag="idle"):
    """Aborts left nothing to compute, so no `StepOutput` will tell that their blocks are free again."""

    free_blocks: int  # lendable now, cached prefix blocks included


class EngineFailed(msgspec.Struct, frozen=True, tag="engine_failed"):
    """The engine's last message before it exits: its state is unknown, so it is not reused."""

    reason: str
    traceback: str
    request_ids: tuple[int, ...] = ()  # members of the step that failed
    fatal: bool = False  # restarting cannot help (bad weights, unsupported model): tell the user instead
    hint: str | None = None
    exit_code: int = 1


FromEngine = EngineReady | Idle | StepBegins | StepOutput | RequestFailed | EngineFailed
