"""The life of a server: from the reserved port to the last answer and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeSupervisor, make_ready
from tests.server.serving import EOS, TEMPLATE, answering, byte_level, serve
from tgi.config import Config, Http, Limits
from tgi.engine.messages import EngineReady, EngineRequest
from tgi.errors import ConfigError, ModelError, Unavailable
from tgi.hub.files import ModelFiles
from tgi.hub.tokenizer_files import TokenizerFiles
from tgi.server import app
from tgi.server.app import GUARDED_PAGES, GUARDED_ROUTES, OPEN_ROUTES, make_services, run
from tgi.server.recovery import TokenStream
from tgi.server.services import Served

FILES = ModelFiles("tiny", "abc", Path("model"), Path("."))
BODY = json.dumps({"inputs": "hello"}).encode()


class Supervisor(FakeSupervisor):
    """A fake that is made, and ends its streams, as the real one; the latest is `Supervisor.latest`."""

    latest: Supervisor
    starting: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, config: Config, model_path: Path, *, first: object = None) -> None:
        super().__init__(answering("ab"), ready=make_ready(vocab_size=320))
        Supervisor.latest = self
        self.streams: list[TokenStream] = []
        self.closed = False
        self.loop = asyncio.get_running_loop()

    async def start(self) -> EngineReady:
        Supervisor.starting()
        await asyncio.sleep(0)
        return await super().start()

    def submit(self, request: EngineRequest) -> TokenStream:
        self.streams.append(super().submit(request))
        return self.streams[-1]

    async def close(self) -> None:
        await super().close()
        self.closed = True
        for stream in self.streams:
            stream.fail(Unavailable("the server is shutting down"))


def tokenizer_files(**changes: Any) -> TokenizerFiles:
    fields: dict[str, Any] = {
        "tokenizer": byte_level(), "config": {}, "chat_template": TEMPLATE, "eos_ids": frozenset({EOS}),
        "model_max_length": None,
    }  # fmt: skip
    return TokenizerFiles(**(fields | changes))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Supervisor]:
    """`run()` with a fake engine and a tiny tokenizer."""
    monkeypatch.setattr(app, "EngineSupervisor", Supervisor)
    monkeypatch.setattr(app, "load_tokenizer", lambda files, path: tokenizer_files())
    monkeypatch.setattr(Supervisor, "starting", staticmethod(lambda: None))
    return Supervisor


def config(port: int = 0, **http: Any) -> Config:
    return Config(http=Http(hostname="127.0.0.1", port=port, **http))


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def wait_until_refused(url: str) -> None:
    """Wait until the server takes no new connections."""
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):  # reset: it came as the port was closed
        while True:
            socket.create_connection(("127.0.0.1", int(url.split(":")[2]))).close()


class Client(threading.Thread):
    """Reads one stream beside the server; `begun` is set when its first event is there."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.begun = threading.Event()
        self.body = b""

    def run(self) -> None:
        request = urllib.request.Request(
            self.url + "/generate_stream", data=BODY, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            self.begun.set()  # headers are sent on admission, before any token
            self.body = response.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_server_with_code_0(fake: type[Supervisor], number: signal.Signals) -> None:
    seen: list[tuple[str, str]] = []

    def ready(engine: EngineReady, url: str) -> None:
        seen.append((engine.model_type, url))
        with socket.create_connection(("127.0.0.1", int(url.split(":")[2]))):
            os.kill(os.getpid(), number)

    assert run(config(), FILES, ready=ready) == 0
    assert seen[0][0] == "fake"
    assert seen[0][1].startswith("http://127.0.0.1:")
    assert fake.latest.closed


def test_running_streams_finish_after_a_signal(fake: type[Supervisor]) -> None:
    clients: list[Client] = []

    def ready(engine: EngineReady, url: str) -> None:
        fake.latest.hold()
        clients.append(Client(url))
        clients[0].start()
        threading.Thread(target=end).start()

    def end() -> None:
        clients[0].begun.wait()
        terminate()
        wait_until_refused(clients[0].url)
        fake.latest.loop.call_soon_threadsafe(fake.latest.release)

    assert run(config(), FILES, ready=ready) == 0
    clients[0].join()
    assert clients[0].body.count(b"data: ") == 3
    assert b"error" not in clients[0].body


@pytest.mark.parametrize("how", ["second signal", "deadline"])
def test_streams_that_do_not_finish_in_time_end_with_an_error(fake: type[Supervisor], how: str) -> None:
    clients: list[Client] = []

    def ready(engine: EngineReady, url: str) -> None:
        fake.latest.hold()
        clients.append(Client(url))
        clients[0].start()
        threading.Thread(target=end).start()

    def end() -> None:
        clients[0].begun.wait()
        terminate()
        if how == "second signal":
            fake.latest.loop.call_soon_threadsafe(terminate)

    limit = 60 if how == "second signal" else 0.05
    assert run(config(graceful_termination_timeout=limit), FILES, ready=ready) == 0
    clients[0].join()
    assert clients[0].body == b'data: {"error":"the server is shutting down","error_type":"healthcheck"}\n\n'


def test_an_engine_that_failed_for_good_ends_the_server_with_code_1(fake: type[Supervisor]) -> None:
    assert run(config(), FILES, ready=lambda engine, url: fake.latest.fail()) == 1
    assert fake.latest.closed


def test_a_signal_during_the_start_ends_it_with_code_0(fake: type[Supervisor]) -> None:
    fake.starting = staticmethod(terminate)  # type: ignore[assignment]

    def ready(engine: EngineReady, url: str) -> None:
        raise AssertionError("it must not get ready")

    assert run(config(), FILES, ready=ready) == 0
    assert fake.latest.closed


def test_a_busy_port_is_known_before_the_engine_starts(fake: type[Supervisor]) -> None:
    def starting() -> None:
        raise AssertionError("the engine must not start")

    fake.starting = staticmethod(starting)  # type: ignore[assignment]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ModelError, match=f"port {port} is in use") as refused:
            run(config(port), FILES, ready=lambda engine, url: None)
    assert refused.value.exit_code == 11


def test_a_model_that_cannot_be_served_is_told_as_it_is(fake: type[Supervisor]) -> None:
    def starting() -> None:
        raise ModelError("unsupported", exit_code=18)

    fake.starting = staticmethod(starting)  # type: ignore[assignment]
    with pytest.raises(ModelError, match="unsupported") as refused:
        run(config(), FILES, ready=lambda engine, url: None)
    assert refused.value.exit_code == 18


@pytest.mark.parametrize("body", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"])
def test_a_template_that_leaves_its_sandbox_is_refused_before_the_port_opens(
    fake: type[Supervisor], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(app, "load_tokenizer", lambda files, path: tokenizer_files(chat_template=body))
    opened: list[str] = []
    with pytest.raises(ModelError, match=r"the model's chat template is refused: .*forbidden operation") as refused:
        run(config(), FILES, ready=lambda engine, url: opened.append(url))
    assert (refused.value.exit_code, opened) == (16, [])


def test_metrics_may_have_a_port_of_their_own(fake: type[Supervisor]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    seen: list[int] = []

    def ready(engine: EngineReady, url: str) -> None:
        threading.Thread(target=scrape).start()

    def scrape() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            seen.append(response.status)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10).close()
        except urllib.error.HTTPError as error:
            seen.append(error.code)
            error.close()
        terminate()

    assert run(config(prometheus_port=port), FILES, ready=ready) == 0
    assert seen == [200, 404]


def test_a_busy_metrics_port_costs_only_itself(fake: type[Supervisor]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(config(prometheus_port=port), FILES, ready=lambda engine, url: terminate()) == 0


async def test_exactly_the_listed_routes_exist() -> None:
    async with serve() as server:
        for path, _ in OPEN_ROUTES:
            path = path.replace("{model:[\\s\\S]+}", "tiny").replace("{name}", "start.js")
            assert (await server.get(path)).status == 200
        for path, _ in GUARDED_PAGES:
            assert (await server.get(path)).status == 200
        for path, _ in GUARDED_ROUTES:
            assert (await server.post(path, b"{")).status == 400
        for path in ("/docs/x", "/openapi.json", "/predict", "/v1/embeddings", "/v2", "/debug", "/static/x"):
            assert (await server.get(path)).status == 404
            assert (await server.post(path, b"{}")).status in (404, 405)


@pytest.mark.parametrize(
    ("flags", "engine", "tokenizer", "total", "longest"),
    [
        ({}, 1000, None, 1000, 999),
        ({}, 1000, 300, 300, 299),
        ({"max_total_tokens": 1000}, 1000, 300, 1000, 999),
        ({"max_input_tokens": 100}, 1000, None, 1000, 100),
    ],
)
async def test_effective_limits(
    flags: dict[str, int], engine: int, tokenizer: int | None, total: int, longest: int
) -> None:
    ready = make_ready(max_total_tokens=engine)
    files = tokenizer_files(model_max_length=tokenizer)
    services = make_services(
        Config(limits=Limits(**flags)), Served(model_id="x"), files, FakeSupervisor(ready=ready), ready  # type: ignore[arg-type]
    )  # fmt: skip
    assert (services.validator.max_total_tokens, services.validator.max_input_tokens) == (total, longest)
    services.tokenizer.close()


async def test_a_prompt_longer_than_the_context_is_no_limit() -> None:
    ready = make_ready(max_total_tokens=100)
    with pytest.raises(ConfigError, match="`--max-input-tokens 100` does not fit"):
        make_services(
            Config(limits=Limits(max_input_tokens=100)), Served(model_id="x"), tokenizer_files(),
            FakeSupervisor(ready=ready), ready,  # type: ignore[arg-type]
        )  # fmt: skip
