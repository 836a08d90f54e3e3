"""Spans arrive at a collector, under TGI's names, inside the caller's trace, and never at a client's expense."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.collector import Collector, over_grpc, over_http
from tests.server.serving import answering, serve
from tests.server.test_metrics import stats
from tgi.config import Telemetry
from tgi.errors import ConfigError
from tgi.server import tracing
from tgi.server.observer import Observer
from tgi.server.tracing import Tracing, make_exporter, start

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-00"  # not sampled by the caller: ours are, always
BODY = {"inputs": "PROMPTWORD", "parameters": {"do_sample": True, "seed": 42, "stop": ["STOPWORD"]}}
CHAT = {"messages": [{"role": "user", "content": "PROMPTWORD"}]}
Collecting = Callable[[], AbstractContextManager[Collector]]


@contextmanager
def tracing_to(url: str) -> Iterator[Tracing]:
    traces = start(Telemetry(otlp_endpoint=url, otlp_service_name="tgi-test"))
    assert traces is not None
    try:
        yield traces
    finally:
        traces.close()


@pytest.mark.parametrize("collecting", [over_grpc, over_http])
async def test_the_spans_of_a_request_arrive(collecting: Collecting) -> None:
    with collecting() as collector, tracing_to(collector.url) as traces:
        async with serve(answering("ANSWERWORD"), tracing=traces) as server:
            answer = await server.post("/generate", BODY, traceparent=TRACEPARENT, **{"x-request-id": "mine"})
        traces.close()
        spans = collector.wait(4)
        assert answer.status == 200
        assert set(spans) == {"generate", "validate", "queued", "infer"}
        request = spans["generate"]
        assert request.resource["service.name"] == "tgi-test"
        assert (request.span.trace_id.hex(), request.span.parent_span_id.hex()) == (TRACE, PARENT)
        assert request.attributes["seed"] == "Some(42)"
        assert request.attributes["request_id"] == "mine"
        assert request.attributes["http.response.status_code"] == 200
        assert request.attributes["parameters"].startswith("GenerateParameters { ")
        times = ("total_time", "validation_time", "queue_time", "inference_time", "time_per_token")
        assert all(request.attributes[name].endswith("s") for name in times)
        for name in ("validate", "queued", "infer"):
            phase = spans[name].span
            assert (phase.trace_id, phase.parent_span_id) == (request.span.trace_id, request.span.span_id)
            assert request.span.start_time_unix_nano - 10**7 < phase.start_time_unix_nano <= phase.end_time_unix_nano
            assert phase.end_time_unix_nano <= request.span.end_time_unix_nano + 10**7
        assert spans["infer"].attributes["generated_tokens"] == len("ANSWERWORD") + 1
        for word in (b"PROMPTWORD", b"ANSWERWORD", b"STOPWORD"):
            assert not any(word in raw for raw in collector.raw)


async def test_what_a_sequence_runs_in_is_a_root_that_its_span_links_to() -> None:
    with over_http() as collector, tracing_to(collector.url) as traces:
        async with serve(answering("a"), tracing=traces) as server:
            # The engine behind this server is no real one: what it would tell of its first step, far in the future.
            traces.batches(Observer()).step(stats(running=1, started_ids=(1,), forward_s=-1e6), -1e6)
            await server.post("/generate", BODY, traceparent=TRACEPARENT)
        traces.close()
        spans = collector.wait(5)
        batch, infer = spans["batch"], spans["infer"]
        assert (batch.span.parent_span_id, batch.attributes["batch_size"]) == (b"", 1)
        assert batch.span.trace_id != infer.span.trace_id
        assert [link.span_id for link in infer.span.links] == [batch.span.span_id]
        assert not spans["queued"].span.links


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/", {"inputs": "x"}, "compat_generate"), ("/generate_stream", {"inputs": "x"}, "generate_stream"),
        ("/v1/chat/completions", CHAT, "chat_completions"), ("/v1/completions", {"prompt": "x"}, "completions"),
        ("/v1/chat/completions", {**CHAT, "stream": True}, "chat_completions"),
    ],
)  # fmt: skip
async def test_every_generating_route_has_tgis_name_and_continues_its_callers_trace(
    path: str, body: object, name: str
) -> None:
    with over_http() as collector, tracing_to(collector.url) as traces:
        async with serve(answering("a"), tracing=traces) as server:
            assert (await server.post(path, body, traceparent=TRACEPARENT)).status == 200
        traces.close()
        span = collector.wait(4)[name].span
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


async def test_other_routes_have_tgis_names_and_begin_traces_of_their_own() -> None:
    with over_http() as collector, tracing_to(collector.url) as traces:
        async with serve(tracing=traces) as server:
            for path in ("/health", "/info", "/v1/models", "/metrics", "/nope"):
                await server.get(path, traceparent=TRACEPARENT)
            await server.post("/tokenize", {"inputs": "x"}, traceparent=TRACEPARENT)
        traces.close()
        spans = collector.wait(4)
        assert set(spans) == {"health", "get_model_info", "openai_get_model_info", "tokenize"}
        assert all(one.span.trace_id.hex() != TRACE for one in spans.values())


@pytest.mark.parametrize(
    "header",
    [
        "", "garbage", TRACEPARENT.upper(), f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{PARENT}", f"{TRACEPARENT}-00", f"00-{TRACE[:-1]}g-{PARENT}-01",
        "00-" + "4" * 100_0, "--- ---",
    ],
)  # fmt: skip
async def test_a_broken_parent_is_ignored(header: str) -> None:
    with over_http() as collector, tracing_to(collector.url) as traces:
        async with serve(answering("a"), tracing=traces) as server:
            assert (await server.post("/generate", BODY, traceparent=header)).status == 200
        traces.close()
        span = collector.wait(4)["generate"].span
        assert (span.trace_id.hex() == TRACE, span.parent_span_id) == (False, b"")


async def test_a_failure_is_marked_by_its_kind_alone() -> None:
    with over_http() as collector, tracing_to(collector.url) as traces:
        async with serve(tracing=traces) as server:
            await server.post("/generate", {"inputs": "PROMPTWORD", "parameters": {"top_k": 0}})
        traces.close()
        span = collector.wait(1)["generate"]
        assert span.attributes["error.type"] == "validation"
        assert (span.span.status.code, span.span.status.message) == (2, "validation")
        assert span.attributes["http.response.status_code"] == 422


def silent() -> socket.socket:
    """A port that accepts and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        kept = []
        try:
            while True:
                kept.append(listener.accept())
        except OSError:
            for client, _ in kept:
                client.close()

    threading.Thread(target=accept, daemon=True).start()
    return listener


@pytest.mark.parametrize("path", ["", "/v1/traces"])
async def test_a_collector_that_hangs_costs_no_request_and_no_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.1)
    listener = silent()
    with tracing_to(f"http://127.0.0.1:{listener.getsockname()[1]}{path}") as traces:
        async with serve(answering("a"), tracing=traces) as server:
            for _ in range(100):  # a single export that was waited for would take longer than the test may
                assert (await server.post("/generate", BODY)).status == 200
    listener.close()


async def test_spans_that_no_collector_takes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.1)
    monkeypatch.setattr(tracing, "EXPORT_INTERVAL_S", 1000.0)
    monkeypatch.setattr(tracing, "WAITING_SPANS", 6)
    monkeypatch.setattr(tracing, "SPANS_AT_ONCE", 6)
    listener = silent()
    with tracing_to(f"http://127.0.0.1:{listener.getsockname()[1]}") as traces:
        async with serve(answering("a"), tracing=traces) as server:
            for _ in range(5):
                await server.post("/generate", BODY)
            lost = (await server.get("/metrics")).body.decode()
    listener.close()
    # 20 spans ended: six wait, and up to six are on their way to the collector that never answers.
    dropped = next(line for line in lost.splitlines() if line.startswith("tgi_trace_spans_dropped "))
    assert 8 <= int(dropped.split()[1]) <= 14


async def test_spans_that_a_collector_refuses_are_counted() -> None:
    with tracing_to("http://127.0.0.1:1/v1/traces") as traces:  # nobody listens there
        async with serve(tracing=traces) as server:
            await server.post("/tokenize", {"inputs": "x"})
        traces.close()
        assert traces.dropped == 1


def test_off_nothing_of_opentelemetry_is_loaded() -> None:
    assert start(Telemetry()) is None
    program = "import sys, tgi.server.app; print([name for name in ('opentelemetry', 'grpc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PACKAGES", ("no_such_package.at.all",))
    with pytest.raises(ConfigError, match="is not installed") as error:
        start(Telemetry(otlp_endpoint="http://127.0.0.1:4317"))
    assert "tgi-toolkit[otel]" in (error.value.hint or "")


@pytest.mark.parametrize("endpoint", ["http://", "http://host:port", "ftp://host", "http://[::1"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is no URL"):
        make_exporter(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "protocol"),
    [
        ("http://collector:4317", "grpc"), ("collector:4317", "grpc"), ("https://collector", "grpc"),
        ("http://collector:4318", "http"), ("http://collector:9/v1/traces", "http"),
        ("https://collector:4318/v1/traces", "http"),
    ],
)  # fmt: skip
def test_the_port_or_the_path_choose_the_protocol(endpoint: str, protocol: str) -> None:
    exporter = make_exporter(endpoint)
    assert f".{protocol}." in type(exporter).__module__
    exporter.shutdown()
