"""What a benchmark knows when it is over: `Run`, its `Step`s and their `Trace`s, and their form in JSON.

This is the documented schema of `tgi bench --json` and of saved results (docs/bench.md). Keys are never renamed within
a `SCHEMA_VERSION`; new ones may come. Times in traces are seconds since the step began, on the client's monotonic
clock; distributions are in milliseconds where their name ends in `_ms`, in tokens a second where it ends in `_rate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tgi.errors import TgiError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load step as it was asked for.

    `kind` is `concurrency` (closed loop), `constant` or `poisson` (open loop), `burst`, `replay`, `multi_turn`, or
    `batch` (TGI's prefill and decode method). `label` is short and unique in a run: "8 streams", "2 req/s".
    """

    kind: str
    label: str
    concurrency: int | None = None  # closed loops: requests under way at once; bursts: requests a burst
    rate: float | None = None  # open loops: requests a second offered
    requests: int | None = None  # measured requests planned, where known
    duration_s: float | None = None  # length planned, where it is a time that ends the step
    prompt_tokens: int | None = None  # None: differs by request
    output_tokens: int | None = None
    shared_prefix_tokens: int = 0  # leading tokens that all prompts have in common
    turns: int = 1  # requests of one conversation
    runs: int = 0  # of kind `batch`: times the batch is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One request: when its parts happened, in seconds since its step began; counts in tokens.

    `scheduled_s` is when the load wanted it to be sent, and what its latencies count from; `sent_s` is when it was.
    """

    number: int  # unique in the run
    scheduled_s: float
    sent_s: float
    finished_s: float
    token_times_s: tuple[float, ...] = ()  # arrival of each event that carried text, first one first
    prompt_tokens: int = 0  # as the server counted, where it tells; else as asked for
    output_tokens: int = 0
    error: str | None = None  # kind of failure: `http_429`, `timeout`, `incomplete`, ...; None: it went well
    message: str | None = None  # what the server or the network said of the failure
    turn: int = 0  # of a conversation, from 0
    warmup: bool = False  # sent before measuring began; never part of a `Step`
    target: int = 0  # index into `Run.targets`

    @property
    def first_token_s(self) -> float | None:
        """When the first token arrived, in seconds since the step began."""
        return self.token_times_s[0] if self.token_times_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Some values, in brief. Percentiles interpolate linearly between sorted values."""

    count: int
    mean: float
    std: float
    min: float
    max: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """One run of TGI's method: a batch of identical requests sent at once, in seconds."""

    prefill_s: float  # from sending until every request has its first token
    decode_s: float  # from then until every request has its last one


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """TGI's figures of all runs of one batch size."""

    prefill_ms: Distribution
    decode_token_ms: Distribution
    decode_total_ms: Distribution
    prefill_rate: Distribution  # prompt tokens a second
    decode_rate: Distribution  # generated tokens a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a step's traces add up to. Distributions are of successful requests; None where there is no value."""

    requests: int
    completed: int
    failed: int
    errors: Mapping[str, int]  # failures by kind
    duration_s: float  # from the first scheduled request to the last answer
    prompt_tokens: int
    output_tokens: int
    request_rate: float  # completed requests a second
    output_token_rate: float  # generated tokens a second
    total_token_rate: float  # prompt and generated tokens a second
    mean_concurrency: float  # requests under way, averaged over time
    ttft_ms: Distribution | None = None  # to the first token
    itl_ms: Distribution | None = None  # between neighbouring events of one stream
    tpot_ms: Distribution | None = None  # one value a request: its mean time a token after the first
    e2e_ms: Distribution | None = None  # to the last byte
    late_ms: Distribution | None = None  # from the scheduled moment to the sending: the load generator's own delay
    good_requests: int | None = None  # completed within every objective; None where none was given
    good_rate: float | None = None  # goodput: good requests a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The state of things at one moment of a step."""

    at_s: float
    in_flight: int  # requests under way, as the client knows
    completed: int
    failed: int
    output_tokens: int  # generated since the step began
    server: Mapping[str, float] = field(default_factory=dict)  # gauges of `/metrics`, by name: `tgi_queue_size`, ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetrics:
    """What `/metrics` says of a step: after minus before. Empty where the server has none."""

    counters: Mapping[str, float] = field(default_factory=dict)  # by series: `tgi_request_count`
    means: Mapping[str, float] = field(default_factory=dict)  # of histograms, in their own unit (seconds)
    p50: Mapping[str, float] = field(default_factory=dict)  # of histograms, interpolated within a bucket
    p99: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRoof:
    """How near one phase came to what the machine can do (docs/bench.md has the formulas)."""

    phase: str  # `prefill` or `decode`
    tokens_per_s: float  # measured
    roof_tokens_per_s: float  # what memory and arithmetic allow
    percent: float
    bound: str  # `memory`, `cache` or `compute`: the one that sets the roof
    bytes_per_token: float
    operations_per_token: float
    batch: float  # sequences (decode) or tokens (prefill) a step shares its weights among


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One load step as it went."""

    load: Load
    started_at: str  # ISO 8601, UTC
    summary: Summary
    target: int = 0  # index into `Run.targets`
    traces: tuple[Trace, ...] = ()  # in order of their ends
    round_ends_s: tuple[float, ...] = ()  # of comparisons: where one round ended and the target's next began
    samples: tuple[Sample, ...] = ()
    server: ServerMetrics = field(default_factory=ServerMetrics)
    batch_runs: tuple[BatchRun, ...] = ()  # of kind `batch`
    batch: BatchSummary | None = None
    roofs: tuple[PhaseRoof, ...] = ()  # empty where the machine or the model is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that the load came from, and the server's too where it is the same."""

    cpu: str
    cores: int  # logical ones this process may use
    memory_bytes: int
    system: str
    serves: bool  # whether the server runs here


CACHED = 1.2  # times the memory's bandwidth: what is read faster comes from a cache


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRoof:
    """What this machine can do at most, measured here."""

    bandwidth: float  # bytes a second read from memory by all cores
    caches: tuple[tuple[int, float], ...] = ()  # bytes read again and again, at least so fast; ascending, falling rates
    float32_rate: float  # operations a second of a float32 matrix product, all cores
    integer_rate: float | None  # of 8-bit integers, derived from it by instruction set; None: the float rate counts
    measured_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What was served."""

    id: str
    revision: str | None = None  # commit
    hash: str | None = None  # `sha256:...` of its files, where the server or the disk tells
    dtype: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server that was measured."""

    url: str
    protocol: str  # `tgi`, `chat` or `completions`
    server: str  # name and version, as far as it tells
    model: Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A service level objective: every completed request should keep `metric` (`ttft`, `itl`, `e2e`) below this."""

    metric: str
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One figure of the second target (B) divided by the first one's (A), with a 95 % confidence interval."""

    load: str  # label of the load
    metric: str  # `output_token_rate`, `ttft_ms`, `itl_ms`, `e2e_ms`
    statistic: str  # `median` or `mean`
    a: float
    b: float
    ratio: float
    low: float
    high: float
    better: str | None  # `A`, `B`, or None where the interval contains 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole benchmark: where, what, how, and every step of it."""

    schema_version: int = SCHEMA_VERSION
    started_at: str  # ISO 8601, UTC
    command: str  # to be copied and run again; secrets are masked
    seed: int
    targets: tuple[Target, ...]
    machine: Machine
    versions: Mapping[str, str]  # of `tgi`, `python`, and what measured
    parameters: Mapping[str, str]  # TGI's first table: "Sequence Length" -> "10"
    steps: tuple[Step, ...] = ()
    objectives: tuple[Objective, ...] = ()
    roof: MachineRoof | None = None
    comparison: tuple[Ratio, ...] = ()  # of two targets
    verdict: str | None = None  # one line on the comparison
    notes: tuple[str, ...] = ()  # what a reader should know: prompts that missed their length, no `/metrics`, ...
    interrupted: bool = False  # stopped before all steps were done


class UnreadableResult(TgiError):
    """A file that is no saved result of ours."""


def to_json(run: Run, *, traces: bool = True) -> bytes:
    """One JSON object; without `traces` the requests and samples of every step are left out."""
    if not traces:
        run = replace(run, steps=tuple(replace(step, traces=(), samples=()) for step in run.steps))
    return msgspec.json.encode(run)


def from_json(data: bytes, name: str) -> Run:
    """A saved run. `name` is for errors. Raises: UnreadableResult."""
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
    except msgspec.DecodeError as error:
        raise UnreadableResult(
            f"`{name}` is no result of `tgi bench`: {error}",
            hint="save one with `tgi bench ... --output-file FILE.json`",
        ) from error
    if version != SCHEMA_VERSION:
        raise UnreadableResult(
            f"`{name}` has schema version {version}; this tgi reads {SCHEMA_VERSION}", hint="measure again"
        )
    try:
        return msgspec.json.decode(data, type=Run)
    except msgspec.DecodeError as error:
        raise UnreadableResult(f"`{name}` is damaged: {error}", hint="measure again") from error


def read(path: Path) -> Run:
    """The run saved in a JSON file. Raises: UnreadableResult, OSError."""
    return from_json(path.read_bytes(), str(path))


@dataclass(frozen=True, slots=True)
class _Version:
    schema_version: int
