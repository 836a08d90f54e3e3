"""Every setting of `tgi serve`, written once: this is where flags, environment names, help and documentation come from.

A field `max_total_tokens` is the flag `--max-total-tokens` and the environment variable `MAX_TOTAL_TOKENS` (TGI's
names, spec/cli.md section 1). `tgi.cli.options` turns the fields into click options; nothing else reads the
environment. A `Config` is frozen, complete and checked; what is learnt later is in `EngineReady`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi.errors import ConfigError

DTYPES = ("float16", "bfloat16", "float32")
QUANTIZE = (
    "int8", "awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin",
    "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "fp8",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flag:
    """What the command line needs to know of a field, beside its name, type and default."""

    help: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    short: str = ""  # "-p"
    aliases: tuple[str, ...] = ()
    env: str = ""  # when it is not the upper-cased name
    multiple: bool = False
    hidden: bool = False
    refuse: Callable[[Any], str | None] | None = None  # value -> why it cannot be honoured yet, or None
    note: str = ""  # shown as a warning when the flag is given: accepted for TGI's sake, and why it changes nothing
    env_accepts: Callable[[str], bool] | None = None  # which values are meant for us, where others set the variable too


def flag(default: Any, help: str, **details: Any) -> Any:
    """A dataclass field that is also a command-line flag; `details` are the fields of `Flag`."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help=help, **details)})


def _later(what: str, instead: str) -> Callable[[Any], str | None]:
    """A refusal of every value but None, False and 0: the feature does not exist yet."""
    return lambda value: f"{what} is not available yet; {instead}" if value else None


def _dtype_or_quantize(model: Model) -> None:
    if model.dtype is not None and model.quantize is not None:
        raise ConfigError(
            f"`--dtype {model.dtype}` and `--quantize {model.quantize}` exclude each other",
            hint="leave one of the two out",
        )


def _is_address(text: str) -> bool:
    """Container runtimes and shells set HOSTNAME to the machine's own name, which TGI ignores for the same reason."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text == "localhost"
    return True


def _is_boolean(text: str) -> bool:
    """ENV is also a file shells read at start, and many programs' name for "production"."""
    return text.strip().lower() in ("true", "false", "1", "0", "yes", "no")


def _one_shard(value: int | None) -> str | None:
    if value is not None and value < 1:
        return "there is no fewer than one; use 1, or leave the flag out"
    return None if value in (None, 1) else "tensor parallelism is not available yet; use 1, or leave the flag out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which weights to serve, and how they are held."""

    model_id: str | None = flag(
        None, "model to serve: a hub id, a local folder or a .gguf file; default: SmolLM2-135M-Instruct"
    )
    revision: str | None = flag(None, "branch, tag, commit or refs/pr/N of the hub repository")
    sharded: bool | None = flag(None, "split the model over several devices", refuse=_later(
        "sharding", "leave the flag out"))  # fmt: skip
    num_shard: int | None = flag(None, "number of devices to split the model over", refuse=_one_shard)
    quantize: str | None = flag(
        None,
        "int8: compute in 8-bit integers, faster on a CPU and close to exact; float weights are converted once",
        choices=QUANTIZE, refuse=lambda value: None if value in (None, "int8") else (
            "this format is not available yet; use int8, or serve a quantized .gguf file instead"
        ),
    )  # fmt: skip
    speculate: int | None = flag(None, "draft tokens a step", unit="tokens", refuse=_later(
        "speculation", "leave the flag out or use 0"))  # fmt: skip
    dtype: str | None = flag(
        None,
        "store weights and KV cache as this type; default: as in the checkpoint",
        choices=DTYPES,
    )
    kv_cache_dtype: str | None = flag(
        None, "store the KV cache as this type", choices=("fp8_e4m3fn", "fp8_e5m2"),
        refuse=_later("an fp8 KV cache", "leave the flag out"),
    )  # fmt: skip
    trust_remote_code: bool = flag(
        False, "accepted for TGI's sake",
        note="no code from a model repository is ever run: supported models run on tgi's own code",
    )  # fmt: skip
    disable_custom_kernels: bool = flag(False, "compute with torch instead of the native kernels (slow)")
    rope_scaling: str | None = flag(None, "replace the model's RoPE scaling", choices=("linear", "dynamic"))
    rope_factor: float | None = flag(None, "factor of --rope-scaling; alone it means linear")
    tokenizer_config_path: Path | None = flag(None, "another tokenizer_config.json, for its chat template")
    huggingface_hub_cache: Path | None = flag(None, "folder of the hub cache")
    weights_cache_override: Path | None = flag(None, "flat folder that holds all files of the model; no download")
    locked: bool = flag(
        False, "refuse a model that is not what the lock file says: every byte is compared", env="TGI_LOCKED"
    )
    lock_file: Path | None = flag(None, "lock file of --locked; default: tgi.lock", env="TGI_LOCK_FILE")
    lora_adapters: str | None = flag(None, "adapters to load, comma separated", refuse=_later(
        "LoRA", "merge the adapter into the model first"))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, and all requests together, may ask for."""

    max_concurrent_requests: int = flag(128, "refuse further requests with 429", unit="requests")
    max_best_of: int = flag(2, "most sequences of one request", unit="sequences")
    max_stop_sequences: int = flag(4, "most stop sequences of one request", unit="sequences")
    max_top_n_tokens: int = flag(5, "most likely tokens a request may ask for beside each token", unit="tokens")
    max_input_tokens: int | None = flag(
        None, "longest prompt; default: max-total-tokens - 1", unit="tokens", aliases=("--max-input-length",)
    )
    max_total_tokens: int | None = flag(
        None, "longest prompt and answer together; default: what the model and the memory allow", unit="tokens"
    )
    max_client_batch_size: int = flag(4, "most prompts in one /v1/completions call", unit="prompts")
    payload_limit: int = flag(2_000_000, "largest request body", unit="bytes")
    enable_prefill_logprobs: bool = flag(
        False, "accepted for TGI's sake",
        note="log-probabilities of the prompt are always given to requests that ask for them",
    )  # fmt: skip
    disable_grammar_support: bool = flag(False, "refuse grammars and tools with 422")
    watermark_gamma: float = flag(0.5, "share of the vocabulary that a watermark favours")
    watermark_delta: float = flag(2.0, "how much a watermark favours it: added to its logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How much one step of the engine may hold."""

    max_batch_prefill_tokens: int | None = flag(
        None, "token budget of one step: long prompts are computed in chunks of at most this; default: 256 on a CPU",
        unit="tokens",
    )  # fmt: skip
    max_batch_total_tokens: int | None = flag(
        None, "size of the KV cache; default: what the memory allows", unit="tokens"
    )
    max_batch_size: int | None = flag(
        None, "most requests running at once; default: max-concurrent-requests", unit="requests"
    )
    cuda_memory_fraction: float = flag(1.0, "share of the device's free memory that tgi may use")
    waiting_served_ratio: float = flag(
        0.3, "accepted for TGI's sake",
        note="prompts are always computed in chunks beside running requests, so nothing is paused for a prefill",
    )  # fmt: skip
    max_waiting_tokens: int = flag(
        20, "accepted for TGI's sake",
        note="prompts are always computed in chunks beside running requests, so none is kept waiting",
    )  # fmt: skip
    cuda_graphs: str | None = flag(
        None, "batch sizes to capture, comma separated; 0: none",
        refuse=lambda value: None if value in (None, "0") else "CUDA is not available yet; leave the flag out or use 0",
    )  # fmt: skip
    prefix_caching: bool = flag(True, "find computed prefixes of earlier prompts again", env="PREFIX_CACHING")
    block_size: int = flag(16, "tokens a KV cache block holds", unit="tokens", env="TGI_BLOCK_SIZE", hidden=True)
    threads: int | None = flag(
        None, "threads of the CPU kernels; default: one a physical core", unit="threads", env="TGI_THREADS"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """Where the server listens, and whom it answers."""

    hostname: str = flag("0.0.0.0", "address to listen on", env_accepts=_is_address)
    port: int = flag(3000, "port to listen on", short="-p")
    prometheus_port: int | None = flag(None, "serve /metrics on this port too (TGI bound 9000 and served nothing)")
    api_key: str | None = flag(None, "refuse requests without `Authorization: Bearer <key>`")
    protect_all: bool = flag(False, "ask for the api key on every route but those of health")
    cors_allow_origin: tuple[str, ...] = flag((), "allowed CORS origin; repeatable; default: any", multiple=True)
    validation_workers: int = flag(2, "tokenizer threads", unit="threads")
    graceful_termination_timeout: float = flag(
        90, "time running requests get after SIGTERM", unit="seconds", short="-g"
    )
    step_timeout: float = flag(
        300, "replace an engine whose step takes longer than this", unit="seconds", env="TGI_STEP_TIMEOUT"
    )
    aip_predict_route: str | None = flag(None, "answer Vertex AI's predictions on this path, beside /vertex")
    aip_health_route: str | None = flag(None, "answer Vertex AI's health checks on this path, beside /health")
    ngrok: bool = flag(False, "not available", refuse=_later("ngrok", "run the ngrok client beside tgi"))
    ngrok_authtoken: str | None = flag(None, "not available", refuse=_later("ngrok", "run its client beside tgi"))
    ngrok_edge: str | None = flag(None, "not available", refuse=_later("ngrok", "run its client beside tgi"))
    shard_uds_path: str = flag(
        "/tmp/text-generation-server", "accepted for TGI's sake",
        note="the engine is reached through an inherited socket pair: there is no socket file",
    )  # fmt: skip
    master_addr: str = flag("localhost", "accepted for TGI's sake", note="there is one shard, so no rendezvous")
    master_port: int = flag(29500, "accepted for TGI's sake", note="there is one shard, so no rendezvous")
    max_image_fetch_size: int = flag(
        1 << 30, "accepted for TGI's sake", unit="bytes", note="no supported model reads images, so none is fetched"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What the server tells about itself."""

    json_output: bool = flag(False, "write log lines as JSON")
    log_format: str = flag(
        "auto", "json is --json-output; pretty is text; auto is json where --json-output is given, else text",
        choices=("auto", "json", "pretty"), env="TGI_LOG_FORMAT",
    )  # fmt: skip
    log_level: str = flag(
        "info", "debug, info, warn or error, or a list such as `warn,tgi.server=debug`", env="LOG_LEVEL"
    )
    print_env: bool = flag(
        False, "print the runtime environment, then go on",
        short="-e", aliases=("--env",), env="ENV", env_accepts=_is_boolean,
    )  # fmt: skip
    otlp_endpoint: str | None = flag(
        None, "send traces to the OpenTelemetry collector at this URL: over HTTP to port 4318 or a path /v1/traces, "
        "else over gRPC; needs the extra `otel`",
    )  # fmt: skip
    otlp_service_name: str = flag("text-generation-inference.router", "service name in traces")
    usage_stats: str = flag("on", "accepted for TGI's sake: nothing is ever sent", choices=("on", "off", "no-stack"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Raises: ConfigError where values contradict each other or ask for what does not exist."""

    model: Model = dataclasses.field(default_factory=Model)
    limits: Limits = dataclasses.field(default_factory=Limits)
    batching: Batching = dataclasses.field(default_factory=Batching)
    http: Http = dataclasses.field(default_factory=Http)
    telemetry: Telemetry = dataclasses.field(default_factory=Telemetry)
    # Not a flag: shared libraries the engine loads before torch; the command line finds them (tgi.cli.driver).
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_tgis_rules(self.model, self.http)
        for section in (self.model, self.limits, self.batching, self.http, self.telemetry):
            _refuse_missing_features(section)
        _check_positive(self)
        _check_lengths(self)
        _check_paths(self.http)
        _dtype_or_quantize(self.model)
        if self.telemetry.json_output and self.telemetry.log_format == "pretty":
            raise ConfigError("`--log-format pretty` and `--json-output` exclude each other",
                              hint="give one of them")  # fmt: skip


def _check_tgis_rules(model: Model, http: Http) -> None:
    """Combinations that TGI's launcher refuses (spec/cli.md section 2), whether or not we have the features."""
    if model.dtype and model.quantize in QUANTIZE and not model.quantize.startswith(("bitsandbytes", "int8")):
        raise ConfigError(f"`--dtype {model.dtype}` and `--quantize {model.quantize}` exclude each other",
                          hint="leave out --dtype: the format chooses the type")  # fmt: skip
    if model.quantize == "exl2" and (model.sharded or (model.num_shard or 1) > 1):
        raise ConfigError("`--quantize exl2` works on one shard only", hint="leave out --sharded and --num-shard")
    if model.sharded and model.num_shard is not None and model.num_shard <= 1:
        raise ConfigError(f"`--sharded true` needs `--num-shard` of 2 or more. Given: {model.num_shard}",
                          hint="leave out --sharded")  # fmt: skip
    for entry in (model.lora_adapters or "").split(","):
        if entry.count("@") > 1 or entry.count("=") > 1:
            raise ConfigError(f"`--lora-adapters`: `{entry.strip()}` has two `@` or two `=`",
                              hint="write `id`, `id@revision` or `name=/path`")  # fmt: skip
    if http.ngrok and not (http.ngrok_authtoken and http.ngrok_edge):
        raise ConfigError("`--ngrok` needs `--ngrok-authtoken` and `--ngrok-edge`, and is not available yet",
                          hint="leave it out, and run the ngrok client beside tgi")  # fmt: skip


def _check_paths(http: Http) -> None:
    for name, path in (("aip-predict-route", http.aip_predict_route), ("aip-health-route", http.aip_health_route)):
        if path is not None and not (path.startswith("/") and path.isprintable() and not set(path) & set("{}?# ")):
            raise ConfigError(
                f"`--{name}` must be a path. Given: {path}",
                hint="write it with a slash at its begin, such as `/predict`",
            )


def flags(section: Any) -> list[tuple[dataclasses.Field[Any], Flag]]:
    """The fields of a settings class or instance that are flags, in order of definition."""
    return [(f, f.metadata["flag"]) for f in dataclasses.fields(section) if "flag" in f.metadata]


def _refuse_missing_features(section: Any) -> None:
    for field, details in flags(section):
        value = getattr(section, field.name)
        reason = details.refuse(value) if details.refuse else None
        if reason:
            given = "" if field.type == "bool" else f" {str(value).lower() if value is True else value}"
            raise ConfigError(f"`--{field.name.replace('_', '-')}{given}`: {reason.partition('; ')[0]}",
                              hint=reason.partition("; ")[2])  # fmt: skip


def _check_positive(config: Config) -> None:
    positive = {
        "max_concurrent_requests": config.limits.max_concurrent_requests,
        "max_best_of": config.limits.max_best_of,
        "max_client_batch_size": config.limits.max_client_batch_size,
        "payload_limit": config.limits.payload_limit,
        "max_input_tokens": config.limits.max_input_tokens,
        "max_total_tokens": config.limits.max_total_tokens,
        "max_batch_prefill_tokens": config.batching.max_batch_prefill_tokens,
        "max_batch_total_tokens": config.batching.max_batch_total_tokens,
        "max_batch_size": config.batching.max_batch_size,
        "block_size": config.batching.block_size,
        "threads": config.batching.threads,
        "validation_workers": config.http.validation_workers,
        "rope_factor": config.model.rope_factor,
        "step_timeout": config.http.step_timeout,
    }
    for name, value in positive.items():
        if value is not None and not value > 0:  # refuses NaN too
            raise ConfigError(f"`--{name.replace('_', '-')}` must be > 0. Given: {value}",
                              hint="give a larger value, or leave the flag out")  # fmt: skip
    if not 0 < config.batching.cuda_memory_fraction <= 1:
        raise ConfigError(f"`--cuda-memory-fraction` must be in (0, 1]. Given: {config.batching.cuda_memory_fraction}",
                          hint="use 1.0 for all free memory")  # fmt: skip
    if not 0 < config.limits.watermark_gamma < 1:
        raise ConfigError(f"`--watermark-gamma` must be > 0 and < 1. Given: {config.limits.watermark_gamma}",
                          hint="use 0.5, half of the vocabulary, unless you know better")  # fmt: skip
    if not 0 < config.limits.watermark_delta <= 100:
        raise ConfigError(f"`--watermark-delta` must be > 0 and <= 100. Given: {config.limits.watermark_delta}",
                          hint="use 2.0, as is usual; more is easier to detect, and harms the text more")  # fmt: skip
    for name, port in (("port", config.http.port), ("prometheus-port", config.http.prometheus_port)):
        if port is not None and not 0 <= port <= 65535:
            raise ConfigError(
                f"`--{name}` must be in [0, 65535]. Given: {port}",
                hint=f"use --{name} 0 for any free port, or a number up to 65535",
            )
    counts = {
        "max_stop_sequences": config.limits.max_stop_sequences,
        "max_top_n_tokens": config.limits.max_top_n_tokens,
        "graceful_termination_timeout": config.http.graceful_termination_timeout,
    }
    for name, value in counts.items():
        if not value >= 0:
            raise ConfigError(f"`--{name.replace('_', '-')}` must be >= 0. Given: {value}",
                              hint="give a larger value, or leave the flag out")  # fmt: skip


def _check_lengths(config: Config) -> None:
    longest_input, longest = config.limits.max_input_tokens, config.limits.max_total_tokens
    cache = config.batching.max_batch_total_tokens
    if longest_input is not None and longest is not None and longest_input >= longest:
        raise ConfigError(f"`--max-input-tokens` must be < `--max-total-tokens`. Given: {longest_input} and {longest}",
                          hint=f"use --max-input-tokens {longest - 1} or less")  # fmt: skip
    if longest is not None and cache is not None and longest > cache:
        raise ConfigError(f"`--max-total-tokens` must be <= `--max-batch-total-tokens`. Given: {longest} and {cache}",
                          hint=f"use --max-batch-total-tokens {longest} or more")  # fmt: skip
    step = config.batching.max_batch_prefill_tokens
    if step is not None and cache is not None and step > cache:
        raise ConfigError(
            f"`--max-batch-prefill-tokens` must be <= `--max-batch-total-tokens`. Given: {step} and {cache}",
            hint=f"use --max-batch-prefill-tokens {cache} or less",
        )
