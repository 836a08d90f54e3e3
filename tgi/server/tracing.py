"""Spans of requests for an OpenTelemetry collector, under TGI's names (docs/metrics.md).

Off, it costs nothing: OpenTelemetry is not even imported. On, spans wait in a bounded queue for a thread that sends
them; a collector that is slow, or gone, costs spans and never a request's time.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from tgi import __version__, log
from tgi.config import Telemetry
from tgi.errors import ConfigError
from tgi.server.batch_spans import BatchSpans
from tgi.server.observer import Observer
from tgi.server.timing import Timings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span, SpanContext

EXPORT_TIMEOUT_S = 5
EXPORT_INTERVAL_S = 1.0
FLUSH_S = 5.0  # at the end, a collector gets so long
WAITING_SPANS = 2048  # more are dropped, the oldest first
SPANS_AT_ONCE = 128
PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc", "opentelemetry.exporter.otlp.proto.http")

# Spans by the name of their handler. Those of TGI that generate continue the caller's trace.
_GENERATING = {
    "generate": "generate",
    "generate_stream": "generate_stream",
    "compat_generate": "compat_generate",
    "chat_completions": "chat_completions",
    "completions": "completions",
    "invocations": "sagemaker_compatibility",
    "vertex": "vertex_compatibility",
}
_OTHERS = {
    "tokenize": "tokenize",
    "chat_tokenize": "chat_tokenize",
    "health": "health",
    "info": "get_model_info",
    "models": "openai_get_model_info",
}
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

logger = logging.getLogger("tgi.server.tracing")


class RequestSpan:
    """The span of the request that is being handled."""

    def __init__(self, span: Span, tracing: Tracing) -> None:
        self._span = span
        self._tracing = tracing

    def succeeded(self, facts: Mapping[str, str], timings: Timings, generated: int) -> None:
        """A sequence is complete: what it took becomes attributes, and each phase a span of its own."""
        self._span.set_attributes(facts)
        phases: tuple[tuple[str, float, float, dict[str, int]], ...] = (
            ("validate", timings.received, timings.queued, {}),
            ("queued", timings.queued, timings.scheduled, {}),
            ("infer", timings.scheduled, timings.done, {"generated_tokens": generated}),
        )
        batch = self._tracing.batch_of(timings.scheduled)
        for name, begin, end, attributes in phases:
            linked = batch if name == "infer" else None
            self._tracing.phase(self._span, name, begin, end, attributes, linked)

    def failed(self, kind: str) -> None:
        """The request failed; `kind` is the type of its error, never its words, which may be the client's."""
        self._span.set_attribute("error.type", kind)
        self._tracing.mark(self._span, kind)


_current: ContextVar[RequestSpan | None] = ContextVar("current", default=None)


def current() -> RequestSpan | None:
    """The span of the request that is being handled; None without tracing."""
    return _current.get()


def start(telemetry: Telemetry) -> Tracing | None:
    """Trace as the settings ask; None is "not at all".

    Raises: ConfigError when OpenTelemetry is not installed, or the endpoint is no URL.
    """
    if not telemetry.otlp_endpoint:
        return None
    if not all(_is_installed(package) for package in PACKAGES):
        raise ConfigError(
            "`--otlp-endpoint` needs OpenTelemetry, which is not installed",
            hint="install the extra `otel`: pip install 'tgi-toolkit[otel]'",
        )
    return Tracing(telemetry.otlp_endpoint, telemetry.otlp_service_name)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent
        return False


class Tracing:
    """Makes spans and sends them to the collector at `endpoint`. Belongs to the running server."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        # Only here, and only when asked for: they take a third of a second.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

        self._trace = trace
        resource = Resource.create({"service.name": service_name, "service.version": __version__})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._counting = _Counting(make_exporter(endpoint))
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._counting,  # type: ignore[arg-type]
                max_queue_size=WAITING_SPANS,
                max_export_batch_size=SPANS_AT_ONCE,
                schedule_delay_millis=EXPORT_INTERVAL_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("tgi", __version__)
        self._batches: BatchSpans | None = None

    @property
    def dropped(self) -> int:
        """Spans that no collector took: those it refused, and those for which there was no room to wait."""
        return self._counting.refused + self._counting.crowded_out

    def batches(self, inner: Observer) -> Observer:
        """What hears of the engine's steps, tells them to `inner`, and makes a span of each batch."""
        nobody = self._trace.set_span_in_context(self._trace.INVALID_SPAN)

        def begin(moment: float) -> Span:
            return self._tracer.start_span("batch", context=nobody, start_time=_epoch_ns(moment))

        self._batches = BatchSpans(begin, self._end, inner)
        return self._batches

    def batch_of(self, scheduled: float) -> SpanContext | None:
        """The batch in which a sequence joined that left the queue at a moment of `time.monotonic()`."""
        return self._batches.joined(scheduled) if self._batches is not None else None

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request inside its span."""
        route = getattr(request.match_info.handler, "__name__", "")
        name = _GENERATING.get(route) or _OTHERS.get(route)
        if name is None:
            return await handler(request)
        parent = self._parent(request.headers.get("traceparent", "")) if route in _GENERATING else None
        span = self._tracer.start_span(name, context=parent, kind=self._trace.SpanKind.SERVER)
        bound = log.bind(trace_id=f"{span.get_span_context().trace_id:032x}")
        span.set_attribute("request_id", log.bound().get("request_id", ""))
        entered = _current.set(RequestSpan(span, self))
        try:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            return response
        except BaseException:
            self.mark(span, "dropped")  # only a client that leaves ends a handler so
            raise
        finally:
            _current.reset(entered)
            log.unbind(bound)
            self._end(span)

    def phase(
        self, parent: Span, name: str, begin: float, end: float, attributes: Mapping[str, int],
        linked: SpanContext | None = None,
    ) -> None:  # fmt: skip
        """A complete span inside another, linked to a third; `begin` and `end` are seconds of `time.monotonic()`."""
        inside = self._trace.set_span_in_context(parent)
        links = [self._trace.Link(linked)] if linked is not None else []
        span = self._tracer.start_span(
            name, context=inside, start_time=_epoch_ns(begin), attributes=attributes, links=links
        )
        self._end(span, _epoch_ns(max(begin, end)))

    def mark(self, span: Span, kind: str) -> None:
        """A span of something that failed."""
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, kind))

    def _end(self, span: Span, end_ns: int | None = None) -> None:
        self._counting.ends()
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left, in `FLUSH_S` seconds at most."""
        if self._batches is not None:
            self._batches.end()
        # A thread that nobody waits for: a collector that hangs must not keep the process.
        flush = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        flush.start()
        flush.join(FLUSH_S)
        if flush.is_alive():
            logger.warning("the last spans are lost: the collector does not answer")
            # That thread goes on until the process ends; what it has to say is said, and the log may be closed by then.
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)

    def _parent(self, header: str) -> Context | None:
        """The caller's place in its trace, from a W3C `traceparent` header; None if that is missing or broken."""
        found = _TRACEPARENT.fullmatch(header.strip())
        if found is None or found[1] == "ff":
            return None
        context = self._trace.SpanContext(
            int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=self._trace.TraceFlags(int(found[4], 16))
        )
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(context)) if context.is_valid else None


class _Counting:
    """Hands spans to an exporter, and knows how many were lost before it and by it.

    `ends` belongs to the thread that ends spans, `export` to the one that sends them.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._ended = self._taken = 0
        self.crowded_out = self.refused = 0

    def ends(self) -> None:
        """A span ends, and will wait; where there is no room, it takes the place of the oldest."""
        if self._ended - self._taken - self.crowded_out >= WAITING_SPANS:
            self.crowded_out += 1
        self._ended += 1

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        self._taken += len(spans)
        result: SpanExportResult | None = None
        try:
            result = self._exporter.export(spans)
            return result
        finally:
            self.refused += len(spans) if result is None or result.name != "SUCCESS" else 0

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether everything was sent in time."""
        return self._exporter.force_flush(timeout_millis)


def _epoch_ns(moment: float) -> int:
    """A moment of `time.monotonic()` in nanoseconds since 1970."""
    return time.time_ns() - time.monotonic_ns() + int(moment * 1e9)


def make_exporter(endpoint: str) -> SpanExporter:
    """What sends spans to an endpoint: over HTTP if its port is 4318 or its path `/v1/traces`, else over gRPC, as TGI.

    Raises: ConfigError if it is no URL.
    """
    try:
        url = urlsplit(endpoint if "//" in endpoint else f"http://{endpoint}")
        host, port = url.hostname, url.port
    except ValueError:
        url, host, port = urlsplit(""), None, None
    if not host or url.scheme not in ("http", "https"):
        raise ConfigError(f"`--otlp-endpoint {endpoint}` is no URL", hint="such as http://127.0.0.1:4317")
    if port == 4318 or url.path.endswith("/v1/traces"):
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http  # noqa: PLC0415

        address = url.geturl() if url.path.strip("/") else f"{url.scheme}://{url.netloc}/v1/traces"
        return over_http.OTLPSpanExporter(endpoint=address, timeout=EXPORT_TIMEOUT_S)
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc  # noqa: PLC0415

    return over_grpc.OTLPSpanExporter(
        endpoint=f"{url.scheme}://{url.netloc}", insecure=url.scheme == "http", timeout=EXPORT_TIMEOUT_S
    )
