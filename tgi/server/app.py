"""The server: its routes, and its life from the reserved port to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import http_parser, web

from tgi.config import Config, Http
from tgi.engine.messages import EngineReady
from tgi.engine.process import EngineHandle
from tgi.errors import ConfigError
from tgi.hub.files import ModelFiles
from tgi.hub.tokenizer_files import TokenizerFiles, load_tokenizer
from tgi.server import middleware, tracing
from tgi.server.grammars import Grammars
from tgi.server.inference import Inference
from tgi.server.metrics import Metrics
from tgi.server.openapi import Route, document
from tgi.server.ports import Reservation, reserve
from tgi.server.protocol import Connection
from tgi.server.recovery import EngineSupervisor
from tgi.server.renderer import Renderer
from tgi.server.responses import encode
from tgi.server.routes import chat, cloud, completions, docs, generate, health, info, metrics, tokenize
from tgi.server.services import SERVICES, Served, Services
from tgi.server.templates import DEFAULT, named_templates
from tgi.server.tokenizer import Tokenizer
from tgi.server.validation import Validator

log = logging.getLogger("tgi.server.app")

Ready = Callable[[EngineReady, str], None]  # what the engine is, and the URL it is reached at

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")  # which templates know by name
CLOSING_S = 5.0  # for the last error events, once the time to finish is over
BACKLOG = 1024
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OPEN_ROUTES = [
    ("/", health.health),
    ("/health", health.health),
    ("/ping", health.health),
    ("/info", info.info),
    ("/v1/models", info.models),
    ("/v1/models/{model:[\\s\\S]+}", info.model),
    ("/metrics", metrics.metrics),
    ("/docs", docs.redirect),
    ("/docs/", docs.page),
    ("/docs/{name}", docs.asset),
    ("/api-doc/openapi.json", docs.description),
]
GUARDED_PAGES = [("/tokenizer_info", tokenize.tokenizer_info)]
GUARDED_ROUTES = [
    ("/", generate.compat_generate),
    ("/generate", generate.generate),
    ("/generate_stream", generate.generate_stream),
    ("/v1/chat/completions", chat.chat_completions),
    ("/v1/completions", completions.completions),
    ("/tokenize", tokenize.tokenize),
    ("/chat_tokenize", chat.chat_tokenize),
    ("/detokenize", tokenize.detokenize),
    ("/invocations", cloud.invocations),
    ("/vertex", cloud.vertex),
]


def routes(http: Http) -> list[Route]:
    """Every route. Raises: ConfigError when one that Vertex AI chose is taken by another endpoint."""
    table = [
        *(
            Route("GET", path, handler, not http.protect_all or handler is health.health)
            for path, handler in OPEN_ROUTES
        ),
        *(Route("GET", path, handler, False) for path, handler in GUARDED_PAGES),
        *(Route("POST", path, handler, False) for path, handler in GUARDED_ROUTES),
    ]
    taken = {(route.method, route.path): route.handler for route in table}
    chosen = (
        ("--aip-health-route", Route("GET", http.aip_health_route or "", health.health, True)),
        ("--aip-predict-route", Route("POST", http.aip_predict_route or "", cloud.vertex, False)),
    )
    for flag, route in chosen:
        if route.path and taken.setdefault((route.method, route.path), route.handler) is not route.handler:
            raise ConfigError(f"`{flag} {route.path}` is another endpoint of the server", hint="choose another path")
        if route.path and route not in table:
            table.append(route)
    return table


def make_app(services: Services) -> web.Application:
    """All routes and what surrounds them, around services that are ready."""
    http = services.config.http
    table = routes(http)
    open_handlers = {route.handler for route in table if route.open}
    around: list[Any] = [middleware.name_request, middleware.answer_preflight, middleware.answer_errors]
    if services.tracing is not None:
        around.insert(1, services.tracing.handle)
        services.supervisor.observer = services.tracing.batches(services.supervisor.observer)
    if http.api_key:
        around.append(middleware.authorize(http.api_key, open_handlers))
    around.append(middleware.refuse_while_draining({handler for _, handler in OPEN_ROUTES}))
    app = web.Application(middlewares=around)
    app[SERVICES] = services
    app.on_response_prepare.append(middleware.finish_headers(http.cors_allow_origin))
    app[docs.DESCRIPTION] = encode(document(table))
    add = {"GET": web.get, "POST": web.post}  # GET answers HEAD too
    app.add_routes([add[route.method](route.path, route.handler) for route in table])
    return app


def make_services(
    config: Config, served: Served, files: TokenizerFiles, supervisor: EngineSupervisor, ready: EngineReady,
    template: Renderer | None = None,
) -> Services:  # fmt: skip
    """The parts of a server, once the engine and the tokenizer are there; `template` is one that was started already.

    Raises: ConfigError for impossible limits.
    """
    max_total_tokens = _total_tokens(config, files, ready)
    max_input_tokens = config.limits.max_input_tokens or max_total_tokens - 1
    if max_input_tokens >= max_total_tokens:
        raise ConfigError(
            f"`--max-input-tokens {max_input_tokens}` does not fit into a total of {max_total_tokens}",
            hint=f"use --max-input-tokens {max_total_tokens - 1} or less",
        )
    tokenizer = Tokenizer(files.tokenizer, workers=config.http.validation_workers, eos_ids=files.eos_ids)
    series = Metrics(ready, max_input_tokens=max_input_tokens, max_total_tokens=max_total_tokens)
    supervisor.observer = series
    added = files.tokenizer.get_added_tokens_decoder().values()
    grammars = Grammars([token.content for token in added if token.special], on_compiled=series.compiled)
    return Services(
        config=config, served=served, ready=ready, supervisor=supervisor, tokenizer=tokenizer,
        template=template or make_renderer(files),
        tokenizer_config=files.config | {"chat_template": named_templates(files.chat_template).get(DEFAULT)},
        validator=Validator(
            config.limits, tokenizer, max_input_tokens=max_input_tokens, max_total_tokens=max_total_tokens,
            vocab_size=ready.vocab_size, grammars=grammars,
        ),
        metrics=series,
        grammars=grammars,
        inference=Inference(
            supervisor, tokenizer, series, max_concurrent_requests=config.limits.max_concurrent_requests
        ),
    )  # fmt: skip


def make_renderer(files: TokenizerFiles) -> Renderer:
    """The renderer of the model's chat templates, not started."""
    tokens = {name: token for name, token in files.config.items() if name in SPECIAL_TOKENS and isinstance(token, str)}
    return Renderer(named_templates(files.chat_template), tokens)


def run(
    config: Config, files: ModelFiles, *, ready: Ready, stopping: Callable[[int], None] | None = None,
    reservation: Reservation | None = None, engine: EngineHandle | None = None, compute_type: str | None = None,
) -> int:  # fmt: skip
    """Serve the model until a signal comes or the engine cannot be kept alive.

    `ready` is called once, when the port is open; `stopping` when a signal came, with the number of requests that
    still run. `reservation` and `engine` are a port that was taken and an engine that was started before this module
    was imported. `compute_type` is what `x-compute-type` says.

    Returns: the exit code of the process: 0 after a signal, 1 when the engine failed for good.
    Raises:  ConfigError, ModelError for everything that keeps the server from starting.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        # Its pure Python twin has let forged requests through (spec/reliability.md V18).
        raise ConfigError("aiohttp was built without its C parser", hint="reinstall aiohttp from a wheel")
    routes(config.http)  # refuses what cannot work before anything is loaded
    served = Served(model_id=files.model_id, sha=files.revision, files=files.hashes)
    if compute_type:
        served = replace(served, compute_type=compute_type)
    traces = tracing.start(config.telemetry)
    reservation = reservation or reserve(config.http.hostname, config.http.port)
    supervised = functools.partial(EngineSupervisor, config, files.path, first=engine)
    try:
        return _run(_serve(config, files, served, reservation, supervised, ready, stopping, traces))
    finally:
        reservation.close()
        if traces is not None:
            traces.close()


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop  # noqa: PLC0415  (faster, and not everywhere to be had)
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _serve(
    config: Config, files: ModelFiles, served: Served, reservation: Reservation,
    supervised: Callable[[], EngineSupervisor], ready: Ready, stopping: Callable[[int], None] | None,
    traces: tracing.Tracing | None,
) -> int:  # fmt: skip
    stop = Stop()
    supervisor = supervised()
    try:
        starting = asyncio.create_task(_start(config, files, served, supervisor))
        await stop.or_done(starting)
        if stop.asked.is_set():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        services = await starting
        services.tracing = traces
        async with listening(services, reservation) as close_port:
            effective = msgspec.structs.replace(services.ready, max_total_tokens=services.validator.max_total_tokens)
            ready(effective, _url(config.http.hostname, reservation.port))
            log.debug("serving %s", served.model_id)
            await stop.or_done(asyncio.create_task(supervisor.wait_failed()))
            failed = not stop.asked.is_set()
            services.draining = True
            supervisor.drain()
            close_port()
            if not failed:
                if stopping is not None:
                    stopping(services.inference.running)
                await _drain(services, config.http.graceful_termination_timeout, stop)
        services.tokenizer.close()
        services.template.close()
        return int(failed)
    finally:
        await supervisor.close()


async def _start(config: Config, files: ModelFiles, served: Served, supervisor: EngineSupervisor) -> Services:
    """Start the engine, and beside it read the tokenizer and try the chat template."""

    async def read() -> tuple[TokenizerFiles, Renderer]:
        tokenizer_files = await asyncio.to_thread(load_tokenizer, files, config.model.tokenizer_config_path)
        template = make_renderer(tokenizer_files)
        renderers.append(template)
        await template.start()
        return tokenizer_files, template

    renderers: list[Renderer] = []
    try:
        async with asyncio.TaskGroup() as group:
            engine = group.create_task(supervisor.start())
            reading = group.create_task(read())
    except BaseException as error:  # a signal cancels the start
        for renderer in renderers:
            renderer.close()
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from None
        raise
    tokenizer_files, template = reading.result()
    return make_services(config, served, tokenizer_files, supervisor, engine.result(), template)


@contextlib.asynccontextmanager
async def listening(services: Services, reservation: Reservation) -> AsyncIterator[Callable[[], None]]:
    """Accept connections on the reserved port; yields what closes it to new ones.

    On leaving, requests that still run have `CLOSING_S` to end after the engine's end made them fail.
    """
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(make_app(services), handler_cancellation=True, shutdown_timeout=CLOSING_S)
    await runner.setup()
    manager = runner.server
    assert manager is not None
    services.count_connections = lambda: len(manager.connections)
    watcher = loop.create_task(services.metrics.watch_loop())
    reservation.sock.setblocking(False)
    listener = await loop.create_server(lambda: Connection(manager, loop=loop), sock=reservation.sock, backlog=BACKLOG)
    second = await _metrics_port(services)
    try:
        yield listener.close
    finally:
        listener.close()
        watcher.cancel()
        await services.supervisor.close()  # what still runs ends with an error event, never with silence
        await runner.cleanup()
        services.grammars.close()
        if second is not None:
            await second.cleanup()


async def _metrics_port(services: Services) -> web.AppRunner | None:
    """Serve `/metrics` on a port of its own if asked to; a busy one costs only that."""
    port = services.config.http.prometheus_port
    if port is None:
        return None
    app = web.Application()
    app[SERVICES] = services
    app.on_response_prepare.append(middleware.finish_headers(()))
    app.add_routes([web.get("/metrics", metrics.metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, services.config.http.hostname, port).start()
    except OSError as error:
        log.warning("/metrics is not served on port %d: %s", port, error.strerror)
        await runner.cleanup()
        return None
    return runner


async def _drain(services: Services, limit_s: float, stop: Stop) -> None:
    """Let admitted requests finish, until time is over or a second signal comes."""
    deadline = time.monotonic() + limit_s
    while not services.inference.idle and time.monotonic() < deadline and not stop.at_once.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await stop.at_once.wait()


class Stop:
    """Signals to end: the first asks, the second insists. Belongs to the running loop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, self.signal)

    def signal(self) -> None:
        """A signal came."""
        (self.at_once if self.asked.is_set() else self.asked).set()

    async def or_done(self, task: asyncio.Task[Any]) -> None:
        """Wait for the first signal, or for the task, whichever is first."""
        asked = asyncio.create_task(self.asked.wait())
        await asyncio.wait({asked, task}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()


def _total_tokens(config: Config, files: TokenizerFiles, ready: EngineReady) -> int:
    if config.limits.max_total_tokens is not None or files.model_max_length is None:
        return ready.max_total_tokens
    return min(ready.max_total_tokens, files.model_max_length)


def _url(hostname: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(hostname, hostname)
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}"
