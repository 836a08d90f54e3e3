"""What Prometheus reads, under TGI's names, labels and buckets (docs/metrics.md lists them all)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from tgi.engine.messages import NOT_NUMBERS, EngineReady, StepStats
from tgi.server.exposition import Family, Histogram, Labelled, Registry
from tgi.server.observer import Observer
from tgi.server.timing import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# TGI multiplies step by step; its bounds carry the rounding of that, and series of both add up only if ours do too.
SECONDS = tuple(itertools.accumulate([1.5] * 34, lambda bound, factor: bound * factor, initial=0.0001 * 1.5))
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
INTER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
GAP_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60)
COMPILE_S = (0.01, 0.1, 1)
LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
FAILURES = ("validation", "overloaded", "template", "incomplete", "generation", "dropped")
METHODS = ("prefill", "decode")
CONCAT_REASONS = ("chunking", "wait_exceeded", "backpressure")
RESTARTS = ("signal", "exit", "exception", "silence", "loading")
REJECTIONS = {400: "invalid", 401: "unauthorized", 408: "slow_body", 413: "too_large", 415: "invalid", 422: "invalid",
              429: "overloaded", 503: "unavailable"}  # fmt: skip
OUT_OF_MEMORY = "out of memory"  # the engine's word for a step that failed, with all its sequences
MOST_SKIPPED = 8
LAG_INTERVAL_S = 0.25


def _shares(limit: int) -> tuple[float, ...]:
    """A hundred equal parts of a limit."""
    return tuple(limit / 100 * k for k in range(1, 101))


class Metrics(Observer):
    """All series of one server. Every series exists from the start, at 0. For the event loop's thread only."""

    def __init__(self, ready: EngineReady, *, max_input_tokens: int, max_total_tokens: int) -> None:
        self._registry = Registry()
        self._ready = ready
        self._told = (0, 0, ready.num_blocks)  # sequences that wait and run, and free blocks
        self._request_metrics(_shares(max_input_tokens), _shares(max_total_tokens))
        self._latency_metrics()
        self._batch_metrics()
        self._cache_metrics()
        self._grammar_metrics()
        self._resilience_metrics()

    @property
    def families(self) -> Sequence[Family]:
        """Everything there is to know about the series, for documents made of them."""
        return self._registry.families

    def _request_metrics(self, inputs: Sequence[float], totals: Sequence[float]) -> None:
        new = self._registry
        new.section("Requests")
        self.requests = new.counter("tgi_request_count", "requests received", "requests")
        self.successes = new.counter("tgi_request_success", "sequences generated to their end", "sequences")
        self.failures = new.counters(
            "tgi_request_failure", "requests refused, failed or dropped by their client", "err", FAILURES, "requests"
        )
        self.rejected = new.counters(
            "tgi_request_rejected", "requests answered without being given to the engine", "reason",
            tuple(dict.fromkeys(REJECTIONS.values())), "requests",
        )  # fmt: skip
        self.input_length = new.histogram("tgi_request_input_length", "tokens of a prompt", inputs, "tokens")
        self.max_new_tokens = new.histogram(
            "tgi_request_max_new_tokens", "tokens a request may generate", totals, "tokens"
        )
        self.generated_tokens = new.histogram(
            "tgi_request_generated_tokens", "tokens of a complete answer", totals, "tokens"
        )
        self.skipped_tokens = new.histogram(
            "tgi_request_skipped_tokens", "tokens gained by speculation in one step", range(MOST_SKIPPED), "tokens"
        )

    def _latency_metrics(self) -> None:
        new = self._registry
        new.section("Latency")
        self.first_token = new.histogram(
            "tgi_request_time_to_first_token", "from receipt to the first token", FIRST_TOKEN_S, "s"
        )
        self.inter_token = new.histogram(
            "tgi_request_inter_token_latency", "between two tokens of a sequence", INTER_TOKEN_S, "s"
        )
        self.durations = {
            name: new.histogram(f"tgi_request_{name}_duration".replace("__", "_"), what, SECONDS, "s")
            for name, what in {
                "": "from receipt to the last token",
                "validation": "from receipt to the queue",
                "queue": "in the queue",
                "inference": "from the first step to the last token",
                "mean_time_per_token": "inference a generated token",
            }.items()
        }

    def _batch_metrics(self) -> None:
        new = self._registry
        new.section("Batching")
        self.queue_size = new.gauge("tgi_queue_size", "sequences waiting for the engine", "sequences")
        self.queue_tokens = new.gauge("tgi_queue_tokens", "tokens of sequences waiting for the engine", "tokens")
        self.batch_size = new.gauge("tgi_batch_current_size", "sequences running", "sequences")
        self.batch_tokens = new.gauge(
            "tgi_batch_current_max_tokens", "KV cache tokens held by running sequences", "tokens"
        )
        new.gauge("tgi_batch_max_total_tokens", "KV cache tokens there are", "tokens").set(
            self._ready.num_blocks * self._ready.block_size
        )
        self.next_size = new.histogram(
            "tgi_batch_next_size", "sequences that joined in one step", range(1, 1025), "sequences"
        )
        self.concatenations = new.counters(
            "tgi_batch_concat", "steps in which sequences joined a running batch", "reason", CONCAT_REASONS, "steps"
        )
        counts = {
            outcome: new.counters(f"tgi_batch_inference_{outcome}", what, "method", METHODS, "steps")
            for outcome, what in {
                "count": "steps of the engine", "success": "steps that succeeded", "failure": "steps that failed"
            }.items()
        }  # fmt: skip
        self.inference_count, self.inference_success = counts["count"], counts["success"]
        self.inference_failure = counts["failure"]
        families: dict[str, Labelled[Histogram]] = {
            name: new.histograms(f"tgi_batch_{name}_duration", what, SECONDS, "method", METHODS, "s")
            for name, what in {
                "inference": "a step, and handing out its tokens",
                "forward": "a step's forward pass and sampling",
                "decode": "turning a token into text and looking for stop sequences",
                "filter": "telling a request of its token",
            }.items()
        }
        self.batch_durations = {
            (name, method): family.labels(method) for name, family in families.items() for method in METHODS
        }
        self.concat_duration = new.histograms(
            "tgi_batch_concat_duration", "joining a running batch", SECONDS, "method", ("decode",), "s"
        )

    def _cache_metrics(self) -> None:
        new = self._registry
        new.section("KV cache")
        self.kv_blocks = new.gauges("tgi_kv_blocks", "KV cache blocks", "state", ("free", "used"), "blocks")
        self.kv_blocks.labels("free").set(self._ready.num_blocks)
        self.prefix_tokens = new.counter(
            "tgi_prefix_cache_hit_tokens", "prompt tokens found in the prefix cache", "tokens"
        )
        self.preemptions = new.counter(
            "tgi_preemptions", "sequences whose blocks were taken, to be computed again", "sequences"
        )

    def _grammar_metrics(self) -> None:
        new = self._registry
        new.section("Grammars")
        self.grammar_compile = new.histogram(
            "tgi_grammar_compile_duration", "compiling a grammar that was not remembered", COMPILE_S, "s"
        )
        self.grammar_cache = new.gauge("tgi_grammar_cache_bytes", "grammars that are remembered", "bytes")

    def _resilience_metrics(self) -> None:
        new = self._registry
        new.section("Resilience")
        self.engine_up = new.gauge("tgi_engine_up", "1 while the engine can generate")
        self.restarts = new.counters(
            "tgi_engine_restarts", "times the engine was replaced, by what ended it", "reason", RESTARTS
        )
        self.resumed = new.counter(
            "tgi_request_resumed", "sequences that went on in another engine after a crash", "sequences"
        )
        self.resume_gap = new.histogram(
            "tgi_resume_gap_duration", "from an engine's death to the next token of a sequence it ran", GAP_S, "s"
        )
        self.aborted = new.counters(
            "tgi_request_aborted", "requests ended by the server", "reason", ("slow_client",), "requests"
        )
        self.nonfinite_logits = new.counter(
            "tgi_nonfinite_logits", "sequences failed because their logits were not finite", "sequences"
        )
        self.journal_bytes = new.gauge("tgi_journal_bytes", "token ids kept to rebuild live sequences", "bytes")
        self.open_connections = new.gauge("tgi_open_connections", "HTTP connections", "connections")
        self.spans_dropped = new.counter(
            "tgi_trace_spans_dropped", "spans that no collector took: it was slow, or gone", "spans"
        )
        self.loop_lag = new.histogram(
            "tgi_event_loop_lag", "how late the event loop ran what was due", LAG_S, "s"
        )  # fmt: skip

    def compiled(self, seconds: float, cached_bytes: int) -> None:
        """A grammar was compiled or refused, and is remembered among others of `cached_bytes` together."""
        self.grammar_compile.observe(seconds)
        self.grammar_cache.set(cached_bytes)

    def succeeded(self, timings: Timings, generated: int) -> None:
        """A sequence is complete."""
        self.successes.inc()
        self.generated_tokens.observe(generated)
        self.durations[""].observe(timings.total_s)
        self.durations["validation"].observe(timings.validation_s)
        self.durations["queue"].observe(timings.queue_s)
        self.durations["inference"].observe(timings.inference_s)
        self.durations["mean_time_per_token"].observe(timings.per_token_s(generated))

    # What the engine's supervisor tells

    def step(self, stats: StepStats, dispatch_s: float) -> None:
        """The engine made a step, and its tokens were handed out in `dispatch_s` seconds."""
        # Every function called here is one that has to come back into the processor's caches, step after step.
        if (stats.waiting, stats.running, stats.free_blocks) != self._told:
            self._levels(stats.waiting, stats.running, stats.free_blocks)
        if stats.cached_tokens or stats.preemptions:
            self.prefix_tokens.inc(stats.cached_tokens)
            self.preemptions.inc(stats.preemptions)
        if stats.started_ids:
            self.next_size.observe(len(stats.started_ids))
            if stats.decode_tokens:
                self.concatenations.labels("chunking").inc()
                self.concat_duration.labels("decode").observe(0.0)  # nothing is copied when a request joins
        forward_s = stats.forward_s + stats.sample_s
        for method, tokens in (("prefill", stats.prefill_tokens), ("decode", stats.decode_tokens)):
            if tokens:  # a step may be both
                self.inference_count.labels(method).value += 1
                self.inference_success.labels(method).value += 1
                self.batch_durations["inference", method].observe(forward_s + dispatch_s)
                self.batch_durations["forward", method].observe(forward_s)

    def idle(self, free_blocks: int) -> None:
        """Aborts left the engine with nothing to do, or it has just begun."""
        self._levels(0, 0, free_blocks)

    def die(self, waiting: int, methods: Sequence[str]) -> None:
        """The engine is gone, amid `methods` if it ran anything; `waiting` sequences wait for its successor."""
        self._levels(waiting, 0, self._ready.num_blocks)
        self._step_failed(methods)

    def restart(self, reason: str) -> None:
        """An engine is started because the last one ended for this reason."""
        self.restarts.labels(reason).inc()

    def refuse(self, count: int, reason: str, methods: Sequence[str]) -> None:
        """The engine failed this many sequences, amid `methods`, and goes on."""
        if reason == NOT_NUMBERS:
            self.nonfinite_logits.inc(count)
        elif reason == OUT_OF_MEMORY:
            self._step_failed(methods)

    def resume(self, gap_s: float) -> None:
        """A sequence got its first token from another engine than the one that died `gap_s` before."""
        self.resumed.inc()
        self.resume_gap.observe(gap_s)

    def _step_failed(self, methods: Sequence[str]) -> None:
        for method in methods:
            self.inference_count.labels(method).inc()
            self.inference_failure.labels(method).inc()

    def _levels(self, waiting: int, running: int, free_blocks: int) -> None:
        self._told = (waiting, running, free_blocks)
        self.queue_size.set(waiting)
        self.batch_size.set(running)
        used = self._ready.num_blocks - free_blocks
        self.batch_tokens.set(used * self._ready.block_size)
        self.kv_blocks.labels("free").set(free_blocks)
        self.kv_blocks.labels("used").set(used)

    def reject(self, status: int) -> None:
        """A request was answered with this status, and the engine never heard of it."""
        if status in REJECTIONS:
            self.rejected.labels(REJECTIONS[status]).inc()

    async def watch_loop(self) -> None:
        """Measure for ever how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self.loop_lag.observe(max(0.0, loop.time() - due))

    def render(self) -> bytes:
        """Every series in Prometheus' text format 0.0.4."""
        return self._registry.render()
