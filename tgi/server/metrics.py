"""What Prometheus reads, under TGI's names (spec/metrics.md).

The registry is prometheus_client's, the text is ours: TGI's counters have no `_total`, and no `_created` beside them.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Sample

from tgi.engine.messages import EngineReady, StepStats
from tgi.server.timing import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = tuple(0.0001 * 1.5**k for k in range(1, 36))
FAILURES = ("validation", "overloaded", "template", "incomplete", "generation", "dropped")
METHODS = ("prefill", "decode")
CONCAT_REASONS = ("chunking", "wait_exceeded", "backpressure")
MAX_INTERVALS = 8


def _shares(limit: int) -> tuple[float, ...]:
    """A hundred equal parts of a limit."""
    return tuple(limit / 100 * k for k in range(1, 101))


class Metrics:
    """All series of one server. Every series with a closed set of labels exists from the start, at 0."""

    def __init__(self, ready: EngineReady, *, max_input_tokens: int, max_total_tokens: int) -> None:
        self._registry = CollectorRegistry()
        self._ready = ready
        self._restarts_seen = 0
        inputs, totals = _shares(max_input_tokens), _shares(max_total_tokens)

        self.requests = self._counter("tgi_request_count", "requests received")
        self.successes = self._counter("tgi_request_success", "sequences generated to their end")
        self.failures = self._counter("tgi_request_failure", "requests refused, failed or dropped", err=FAILURES)
        self.input_length = self._histogram("tgi_request_input_length", "tokens of a prompt", inputs)
        self.max_new_tokens = self._histogram("tgi_request_max_new_tokens", "tokens a request may generate", totals)
        self.generated_tokens = self._histogram("tgi_request_generated_tokens", "tokens of an answer", totals)
        self.skipped_tokens = self._histogram(
            "tgi_request_skipped_tokens",
            "tokens gained by speculation in one step",
            tuple(map(float, range(MAX_INTERVALS))),
        )
        self.durations = {
            name: self._histogram(f"tgi_request_{name}_duration".replace("__", "_"), f"seconds: {what}", SECONDS)
            for name, what in {
                "": "from receipt to the last token",
                "validation": "from receipt to the queue",
                "queue": "in the queue",
                "inference": "from the first step to the last token",
                "mean_time_per_token": "inference a generated token",
            }.items()
        }
        self.first_token = self._histogram("tgi_request_time_to_first_token", "seconds to the first token", SECONDS)
        self.inter_token = self._histogram("tgi_request_inter_token_latency", "seconds between tokens", SECONDS)
        self._batch_metrics()
        self._engine_metrics()

    def _batch_metrics(self) -> None:
        self.queue_size = self._gauge("tgi_queue_size", "requests waiting for the engine")
        self.batch_size = self._gauge("tgi_batch_current_size", "requests running")
        self.batch_tokens = self._gauge("tgi_batch_current_max_tokens", "KV cache tokens held by running requests")
        self._gauge("tgi_batch_max_total_tokens", "KV cache tokens").set(
            self._ready.num_blocks * self._ready.block_size
        )
        sizes = tuple(map(float, range(1, 1025)))
        self.next_size = self._histogram("tgi_batch_next_size", "requests that joined in one step", sizes)
        self.concatenations = self._counter(
            "tgi_batch_concat", "new requests joined a running batch", reason=CONCAT_REASONS
        )
        self.inference_count = self._counter("tgi_batch_inference_count", "steps", method=METHODS)
        self.inference_success = self._counter("tgi_batch_inference_success", "steps that succeeded", method=METHODS)
        self.inference_failure = self._counter("tgi_batch_inference_failure", "steps that failed", method=METHODS)
        families = {
            name: self._histogram(f"tgi_batch_{name}_duration", f"seconds of {what}", SECONDS, method=METHODS)
            for name, what in {
                "inference": "a step",
                "forward": "a step's forward pass and sampling",
                "decode": "turning a token into text and looking for stop sequences",
                "filter": "handing a token to its request",
            }.items()
        }
        self.batch_durations = {
            (name, method): family.labels(method) for name, family in families.items() for method in METHODS
        }
        self.concat_duration = self._histogram(
            "tgi_batch_concat_duration", "seconds to join a running batch", SECONDS, method=("decode",)
        )

    def _engine_metrics(self) -> None:
        self.engine_up = self._gauge("tgi_engine_up", "1 while the engine can generate")
        self.engine_restarts = self._counter("tgi_engine_restarts", "times the engine was replaced")
        self.kv_blocks = self._gauge("tgi_kv_blocks", "KV cache blocks", state=("free", "used"))
        self.kv_blocks.labels("free").set(self._ready.num_blocks)
        self.prefix_tokens = self._counter("tgi_prefix_cache_hit_tokens", "prompt tokens found in the prefix cache")
        self.preemptions = self._counter("tgi_preemptions", "requests whose blocks were taken to be computed again")
        self.aborted = self._counter("tgi_request_aborted", "requests ended by the server", reason=("slow_client",))

    def succeeded(self, timings: Timings, generated: int) -> None:
        """A sequence is complete."""
        self.successes.inc()
        self.generated_tokens.observe(generated)
        self.durations[""].observe(timings.total_s)
        self.durations["validation"].observe(timings.validation_s)
        self.durations["queue"].observe(timings.queue_s)
        self.durations["inference"].observe(timings.inference_s)
        self.durations["mean_time_per_token"].observe(timings.per_token_s(generated))

    def step(self, stats: StepStats) -> None:
        """The engine made a step."""
        self._levels(stats.waiting, stats.running, stats.free_blocks)
        self.prefix_tokens.inc(stats.cached_tokens)
        self.preemptions.inc(stats.preemptions)
        if stats.started_ids:
            self.next_size.observe(len(stats.started_ids))
            if stats.decode_tokens:
                self.concatenations.labels("chunking").inc()
                self.concat_duration.labels("decode").observe(0.0)  # nothing is copied when a request joins
        for method, tokens in (("prefill", stats.prefill_tokens), ("decode", stats.decode_tokens)):
            if tokens:  # a step may be both
                self.inference_count.labels(method).inc()
                self.inference_success.labels(method).inc()
                self.batch_durations["inference", method].observe(stats.forward_s + stats.sample_s)
                self.batch_durations["forward", method].observe(stats.forward_s + stats.sample_s)

    def idle(self, free_blocks: int) -> None:
        """Aborts, or a restart, left the engine with nothing to do."""
        self._levels(0, 0, free_blocks)

    def _levels(self, waiting: int, running: int, free_blocks: int) -> None:
        self.queue_size.set(waiting)
        self.batch_size.set(running)
        used = self._ready.num_blocks - free_blocks
        self.batch_tokens.set(used * self._ready.block_size)
        self.kv_blocks.labels("free").set(free_blocks)
        self.kv_blocks.labels("used").set(used)

    def engine(self, *, up: bool, restarts: int) -> None:
        """What the supervisor says now."""
        self.engine_up.set(up)
        self.engine_restarts.inc(restarts - self._restarts_seen)
        self._restarts_seen = restarts

    def render(self) -> bytes:
        """Every series in Prometheus' text format 0.0.4."""
        lines = []
        for family in self._registry.collect():
            lines.append(f"# HELP {family.name} {family.documentation}\n# TYPE {family.name} {family.type}\n")
            lines.extend(_line(sample) for sample in family.samples if not sample.name.endswith("_created"))
        return "".join(lines).encode()

    def _counter(self, name: str, help: str, **labels: tuple[str, ...]) -> Counter:
        counter = Counter(name, help, tuple(labels), registry=self._registry)
        for value in next(iter(labels.values()), ()):
            counter.labels(value)
        return counter

    def _gauge(self, name: str, help: str, **labels: tuple[str, ...]) -> Gauge:
        gauge = Gauge(name, help, tuple(labels), registry=self._registry)
        for value in next(iter(labels.values()), ()):
            gauge.labels(value)
        return gauge

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], **labels: tuple[str, ...]) -> Histogram:
        histogram = Histogram(name, help, tuple(labels), registry=self._registry, buckets=buckets)
        for value in next(iter(labels.values()), ()):
            histogram.labels(value)
        return histogram


def _line(sample: Sample) -> str:
    name = sample.name.removesuffix("_total")
    labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
    value = f"{sample.value:g}" if sample.value == int(sample.value) and abs(sample.value) < 1e6 else repr(sample.value)
    return f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"
