"""A collector of traces on the loopback interface: OTLP over gRPC and HTTP, decoded with the protocol's own types."""

from __future__ import annotations

import gzip
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 30


@dataclass
class Received:
    """One span, and the resource it came from."""

    span: Span
    resource: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """The span's attributes."""
        return _values(self.span.attributes)


@dataclass
class Collector:
    """Spans in the order of their arrival."""

    url: str = ""
    spans: queue.Queue[Received] = field(default_factory=queue.Queue)
    raw: list[bytes] = field(default_factory=list)

    def take(self, request: messages.ExportTraceServiceRequest) -> None:
        """An export arrived."""
        self.raw.append(request.SerializeToString())
        for resource_spans in request.resource_spans:
            for scope in resource_spans.scope_spans:
                for span in scope.spans:
                    self.spans.put(Received(span, _values(resource_spans.resource.attributes)))

    def wait(self, count: int) -> dict[str, Received]:
        """The next `count` spans by name."""
        received = [self.spans.get(timeout=WAIT_S) for _ in range(count)]
        return {one.span.name: one for one in received}


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@contextmanager
def over_grpc() -> Iterator[Collector]:
    """A collector that speaks gRPC."""
    collector = Collector()

    class Servicer(service.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            collector.take(request)
            return messages.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(Servicer(), server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


@contextmanager
def over_http() -> Iterator[Collector]:
    """A collector that speaks HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            collector.take(messages.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
