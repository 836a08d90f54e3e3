"""What a real `tgi serve` tells about itself: every query of TGI's board answered, lines that parse, and no secrets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.collector import Collector, over_grpc
from tests.live import LiveServer

START_S = 120
SECRETS = {
    name: f"SECRET{name}WORD"
    for name in ("prompt", "key", "header", "grammar", "stop", "path", "tool", "user", "wrong", "answer")
}
REQUEST_ID = "request-1.of_the-test"

# Every series that a panel of TGI's board asks for (spec/metrics.md): histograms by count, with their labels.
BOARD_COUNTERS = [
    "tgi_request_count", "tgi_request_success", 'tgi_request_failure{err="validation"}',
    'tgi_batch_concat{reason="chunking"}',
]  # fmt: skip
BOARD_GAUGES = ["tgi_queue_size", "tgi_batch_current_size", "tgi_batch_current_max_tokens"]
BOARD_HISTOGRAMS = [
    ("tgi_request_queue_duration", ""), ("tgi_request_duration", ""), ("tgi_request_generated_tokens", ""),
    ("tgi_request_mean_time_per_token_duration", ""), ("tgi_request_input_length", ""),
    ("tgi_request_skipped_tokens", ""), ("tgi_batch_inference_duration", 'method="prefill"'),
    ("tgi_batch_inference_duration", 'method="decode"'), ("tgi_batch_forward_duration", 'method="decode"'),
    ("tgi_batch_decode_duration", 'method="decode"'), ("tgi_batch_filter_duration", 'method="decode"'),
    ("tgi_batch_concat_duration", 'method="decode"'),
]  # fmt: skip
OURS = ["tgi_request_time_to_first_token", "tgi_request_inter_token_latency", "tgi_event_loop_lag"]


def exposition(url: str) -> dict[str, float]:
    """Every sample of `/metrics` by its name and labels."""
    with urllib.request.urlopen(url + "/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_every_query_of_tgis_board_has_data_after_a_load(live_server: LiveServer) -> None:
    def generate(number: int) -> None:
        tokens = 8 + 4 * number  # they leave one by one, so that the others join while some still run
        live_server.post("/generate", {"inputs": f"Number {number} is", "parameters": {"max_new_tokens": tokens}})

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(generate, range(12)))
    with pytest.raises(urllib.error.HTTPError):
        live_server.post("/generate", {"inputs": "x", "parameters": {"top_k": 0}})
    found = exposition(live_server.url)
    assert not [name for name in BOARD_COUNTERS if not found[name] >= 1]
    assert not [name for name in BOARD_GAUGES if name not in found]
    for name, label in BOARD_HISTOGRAMS + [(name, "") for name in OURS]:
        tail = f"{{{label}}}" if label else ""
        assert found[f"{name}_count{tail}"] >= 1, name
        last = f'{name}_bucket{{{label + "," if label else ""}le="+Inf"}}'
        assert found[last] == found[f"{name}_count{tail}"], name
    assert found['tgi_kv_blocks{state="free"}'] > 0
    assert found["tgi_engine_up"] == 1


@dataclass
class JsonServer:
    """A server that writes JSON lines, with a key, traced."""

    process: subprocess.Popen[bytes]
    url: str
    out: Path
    err: Path
    collector: Collector

    def lines(self) -> list[dict[str, Any]]:
        """All log lines."""
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def send(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one POST, or of a GET without a body."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"Content-Type": "application/json", "Authorization": f"Bearer {SECRETS['key']}", **headers}
        request = urllib.request.Request(self.url + path, data=data, headers=given)
        try:
            with urllib.request.urlopen(request, timeout=240) as response:
                return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
        except urllib.error.HTTPError as error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonServer]:
    folder = tmp_path_factory.mktemp("logs")
    out, err = folder / "out", folder / "err"
    with over_grpc() as collector, out.open("wb") as stdout, err.open("wb") as stderr:
        command = [sys.executable, "-m", "tgi", "serve", "--hostname", "127.0.0.1", "--port", "0", "--json-output",
                   "--otlp-endpoint", collector.url]  # fmt: skip
        environment = {**os.environ, "API_KEY": SECRETS["key"], "LOG_LEVEL": "debug"}
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
        try:
            deadline = time.monotonic() + START_S
            while "Connected" not in (text := out.read_text()):
                assert time.monotonic() < deadline, text
                with contextlib.suppress(subprocess.TimeoutExpired):
                    assert process.wait(0.05) is None, err.read_text()
            url = re.search(r"http://127\.0\.0\.1:\d+", text[text.index("ready in") :])
            assert url is not None
            yield JsonServer(process, url[0], out, err, collector)
        finally:
            process.kill()
            process.wait()


def raw(url: str, request: bytes) -> bytes:
    """What a server answers to these bytes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def provoke(server: JsonServer) -> list[tuple[int, dict[str, str], bytes]]:
    """Secrets wherever a client can put words, in requests that succeed and in those that fail."""
    prompt = f"Say {SECRETS['prompt']}"
    stops = {"stop": [SECRETS["stop"]], "max_new_tokens": 4}
    chat = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 4, "user": SECRETS["user"]}
    tool = {"type": "function", "function": {"name": SECRETS["tool"], "parameters": {"type": SECRETS["tool"]}}}
    schema = {"type": "object", "properties": {SECRETS["grammar"]: {"type": SECRETS["grammar"]}}}
    headers = {"X-Custom": SECRETS["header"], "User-Agent": SECRETS["header"], "Cookie": SECRETS["header"]}
    return [
        server.send("/generate", {"inputs": prompt, "parameters": {**stops, "seed": 3, "do_sample": True}}, **headers),
        server.send("/generate_stream", {"inputs": prompt, "parameters": stops}),
        server.send("/v1/chat/completions", chat),
        server.send("/v1/chat/completions", {**chat, "stream": True, "stop": SECRETS["stop"]}),
        server.send("/generate", {"inputs": prompt, "parameters": {"top_k": 0}}),
        server.send("/generate", {"inputs": prompt, "parameters": {"grammar": {"type": "json", "value": schema}}}),
        server.send("/generate", {"inputs": prompt, "parameters": {"grammar": {
            "type": "regex", "value": f"({SECRETS['grammar']}"}}}),
        server.send("/generate", {"inputs": prompt, "parameters": {"max_new_tokens": 4, "grammar": {
            "type": "regex", "value": SECRETS["grammar"]}}}),
        server.send("/v1/chat/completions", {**chat, "tools": [tool], "tool_choice": "required"}),
        server.send("/v1/chat/completions", {**chat, "messages": [{"role": SECRETS["user"]}]}),
        server.send("/generate", f'{{"inputs": "{SECRETS["prompt"]}'.encode()),
        server.send("/generate", {"inputs": 1, SECRETS["prompt"]: 1}),
        server.send("/" + SECRETS["path"], b"{}"),
        server.send("/generate", b"{}", **{"Content-Type": SECRETS["header"]}),
        server.send("/generate", {"inputs": prompt}, Authorization=f"Bearer {SECRETS['wrong']}"),
    ]  # fmt: skip


def test_lines_parse_carry_the_requests_name_and_tell_no_secret(server: JsonServer) -> None:
    answers = provoke(server)
    assert [status for status, _, _ in answers[:4]] == [200] * 4
    assert {status for status, _, _ in answers[4:]} <= {200, 400, 401, 404, 415, 422}, answers
    names = [headers["x-request-id"] for _, headers, _ in answers]
    assert len(set(names)) == len(names)
    named = server.send("/generate", {"inputs": "x", "parameters": {"top_k": 0}}, **{"X-Request-Id": REQUEST_ID})
    assert named[1]["x-request-id"] == REQUEST_ID
    broken = raw(server.url, f"GET /info HTTP/1.1\r\nHost: x\r\nX-{'a' * 9000}: {SECRETS['header']}\r\n\r\n".encode())
    assert b"x-request-id: " in broken.lower()
    told = "\n".join(str(one) for one in (exposition(server.url), server.send("/info", None)[2]))
    family = psutil.Process(server.process.pid)
    commands = "\n".join(" ".join(one.cmdline()) for one in [family, *family.children(recursive=True)])
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    lines = server.lines()
    for line in lines:
        assert {"timestamp", "level", "message", "target", "filename", "line_number"} <= set(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
        assert line["level"] in ("DEBUG", "INFO", "WARN", "ERROR")
    successes = {line["request_id"]: line for line in lines if line["message"] == "Success"}
    assert set(names[:4]) <= set(successes)
    span = successes[names[0]]["span"]
    assert (span["name"], span["seed"], successes[names[0]]["spans"]) == ("generate", "Some(3)", [span])
    assert {"parameters", "total_time", "validation_time", "queue_time", "inference_time", "time_per_token"} < set(span)
    assert [line["message"] for line in lines if line.get("request_id") == REQUEST_ID] == [
        "Input validation error: `top_k` must be strictly positive"
    ]
    spans = [server.collector.spans.get_nowait() for _ in range(server.collector.spans.qsize())]
    traced = {one.attributes["request_id"]: one for one in spans if "request_id" in one.attributes}
    assert {"generate", "generate_stream", "chat_completions"} <= {one.span.name for one in traced.values()}
    assert traced[names[0]].span.trace_id.hex() == successes[names[0]]["trace_id"]
    batches = {one.span.span_id for one in spans if one.span.name == "batch" and not one.span.parent_span_id}
    assert batches
    assert all({link.span_id for link in one.span.links} <= batches for one in spans if one.span.name == "infer")
    assert all(len(one.span.links) == 1 for one in spans if one.span.name == "infer")
    places = {"stdout": server.out.read_text(), "stderr": server.err.read_text(), "answers": told,
              "commands": commands, "traces": str(server.collector.raw)}  # fmt: skip
    assert not [(place, secret) for place, text in places.items() for secret in SECRETS.values() if secret in text]
