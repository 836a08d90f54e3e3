"""A server of chat completions that says what a test wants, at the pace the test wants."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

HANG, CUT = "<hang>", "<cut>"  # pieces of an answer: nothing more comes; the connection ends


class FakeChatServer:
    """Gives `answers` in turn, the last one for ever: pieces of text, one an event, or a status and a body."""

    def __init__(self, *answers: list[str] | tuple[int, Any], models: tuple[str, ...] = ("fake-model",)) -> None:
        self.answers = list(answers)
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.released = threading.Event()
        self.usage = True
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.list_models(self)

            def do_POST(self) -> None:
                fake.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def list_models(self, handler: BaseHTTPRequestHandler) -> None:
        """`GET /v1/models`."""
        self.keys.append(handler.headers.get("authorization"))
        data = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        _send(handler, 200, data if handler.path == "/v1/models" else {})

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """`POST /v1/chat/completions`."""
        self.keys.append(handler.headers.get("authorization"))
        self.requests.append(json.loads(handler.rfile.read(int(handler.headers["content-length"]))))
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, tuple):
            _send(handler, *answer)
            return
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        for piece in answer:
            if piece == CUT:
                return
            if piece == HANG:
                self.released.wait()
                return
            self._event(handler, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}}]})
        self._event(handler, {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
        if self.usage:
            usage = {"prompt_tokens": 3, "completion_tokens": len(answer), "total_tokens": 3 + len(answer)}
            self._event(handler, {"choices": [], "usage": usage})
        handler.wfile.write(b"data: [DONE]\n\n")

    def _event(self, handler: BaseHTTPRequestHandler, event: dict[str, Any]) -> None:
        handler.wfile.write(b"data: " + json.dumps({"model": "fake-model", **event}).encode() + b"\n\n")
        handler.wfile.flush()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def _send(handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
