"""Small servers that speak TGI's and OpenAI's protocols: one word is one token, and answers are as long as asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

METRICS = """# TYPE tgi_request_count counter
tgi_request_count {count}
# TYPE tgi_queue_size gauge
tgi_queue_size 3
# TYPE tgi_request_duration histogram
tgi_request_duration_bucket{{le="0.1"}} {count}
tgi_request_duration_bucket{{le="+Inf"}} {count}
tgi_request_duration_sum {seconds}
tgi_request_duration_count {count}
"""


@dataclass
class FakeServer:
    """What it was asked, and how it misbehaves: `failures` maps the number of a request to a kind of failure."""

    tgi: bool = True
    openai: bool = True
    completions: bool = True
    tokenize: bool = True
    strict: bool = False  # refuses `ignore_eos`, as the original OpenAI does
    key: str | None = None
    model_hash: str | None = None
    template_tokens: int = 5
    failures: dict[int, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application(middlewares=[self._guard])
        if self.tgi:
            app.router.add_get("/info", self._info)
            app.router.add_post("/generate_stream", self._generate)
            app.router.add_get("/metrics", self._metrics)
        if self.openai:
            app.router.add_get("/v1/models", self._models)
            app.router.add_post("/v1/chat/completions", self._chat)
            if self.completions:
                app.router.add_post("/v1/completions", self._completions)
        if self.tokenize:
            app.router.add_post("/tokenize", self._tokenize)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "unauthorized"}, status=401)
        return await handler(request)  # type: ignore[no-any-return]

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_id": "fake/model",
                "model_sha": "abc",
                "model_hash": self.model_hash,
                "version": "9.9.9",
                "router": "x",
            }
        )

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake/model", "object": "model"}]})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=METRICS.format(count=len(self.bodies), seconds=0.05 * len(self.bodies)))

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "inputs" in body:
            return web.json_response([{"id": 1, "text": word} for word in body["inputs"].split()])
        return web.json_response({"count": self._count(body), "tokens": []})

    def _count(self, body: dict[str, Any]) -> int:
        if "messages" in body:
            return self.template_tokens + sum(len(message["content"].split()) for message in body["messages"])
        return len(body["prompt"].split())

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        tokens = body["parameters"]["max_new_tokens"]
        events: list[Any] = [
            {"index": n + 1, "token": {"id": 1, "text": " w", "logprob": 0.0, "special": False},
             "generated_text": None, "details": None}
            for n in range(tokens)
        ]  # fmt: skip
        events[-1] |= {
            "generated_text": " w" * tokens,
            "details": {"finish_reason": "length", "generated_tokens": tokens,
                        "input_length": len(body["inputs"].split())},
        }  # fmt: skip
        return await self._stream(request, body, events, {"error": "out of cheese", "error_type": "generation"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        events: list[Any] = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
        events += [{"choices": [{"delta": {"content": " w"}}]} for _ in range(body["max_tokens"])]
        events.append({"choices": [{"delta": {}, "finish_reason": "length"}]})
        return await self._openai(request, body, events)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        events: list[Any] = [{"choices": [{"text": " w"}]} for _ in range(body["max_tokens"])]
        events[-1]["choices"][0]["finish_reason"] = "length"
        return await self._openai(request, body, events)

    async def _openai(self, request: web.Request, body: dict[str, Any], events: list[Any]) -> web.StreamResponse:
        if self.strict and "ignore_eos" in body:
            return web.json_response({"error": {"message": "unknown field `ignore_eos`"}}, status=400)
        usage = {"prompt_tokens": self._count(body), "completion_tokens": body["max_tokens"]}
        if not body.get("stream"):
            return web.json_response({"choices": [], "usage": usage})
        events = [*events, {"choices": [], "usage": usage}, "[DONE]"]
        return await self._stream(request, body, events, {"error": {"message": "out of cheese"}})

    async def _stream(
        self, request: web.Request, body: dict[str, Any], events: list[Any], error: dict[str, Any]
    ) -> web.StreamResponse:
        failure = self.failures.get(len(self.bodies))
        self.bodies.append(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if failure == "429":
                return web.json_response({"error": "Model is overloaded", "error_type": "overloaded"}, status=429)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            if failure == "cut":
                await response.write(b"data: {")
                assert request.transport is not None
                request.transport.abort()
                return response
            if failure in ("incomplete", "error"):
                events = [events[0], *([error] if failure == "error" else [])]
            for event in events:
                await response.write(
                    b"data: %s\n\n" % (event if isinstance(event, str) else json.dumps(event)).encode()
                )
            await response.write_eof()
            return response
        finally:
            self._at_once -= 1


@asynccontextmanager
async def serve(server: FakeServer) -> AsyncIterator[str]:
    """The URL of a fake server that listens."""
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
