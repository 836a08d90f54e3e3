"""What `tgi serve` does once its command line is read: find the model, start the server, and tell how that goes.

People read lines on stderr; with `--json-output` the same lines are log records on stdout.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from tgi.cli import STARTED_S, driver
from tgi.cli.console import talk, warn
from tgi.cli.environment import compute_type, hub_settings, runtime_report
from tgi.cli.progress import download_progress, size
from tgi.config import Config
from tgi.engine import process
from tgi.footprint import settle
from tgi.hub.download import locate
from tgi.hub.files import ModelFiles
from tgi.server.ports import Reservation, reserve

if TYPE_CHECKING:
    from tgi.engine.messages import EngineReady, MemoryLedger

logger = logging.getLogger("tgi.cli")

EXAMPLE_PROMPT = "What is deep learning?"


def run(
    config: Config, warnings: Sequence[str], *, verbosity: int = 0, announce: Callable[[], None] = lambda: None
) -> int:
    """Serve until told to stop; `announce` is called once requests are answered. Returns: the process's exit code."""
    leave_when_told()
    story = Story(config, talk(), started_s=STARTED_S, verbosity=verbosity, announce=announce)
    for warning in warnings:
        story.warn(warning)
    if config.telemetry.print_env:
        story.environment()
    reservation = reserve(config.http.hostname, config.http.port)  # a busy port is known before anything is fetched
    try:
        files = fetch(config, verbosity)
        story.found(files)
        found = driver.find(os.environ)
        with driver.visible(found, os.environ):
            return serve(replace(config, preload=found.libraries), files, story, reservation)
    finally:
        reservation.close()


def fetch(config: Config, verbosity: int = 0) -> ModelFiles:
    """The model's files, downloaded where they are not on this machine. Raises: ModelError when they cannot be had."""
    with download_progress(talk(), draw=verbosity >= 0 and not config.telemetry.json_output) as progress:
        return locate(config.model, environment=hub_settings(), progress=progress)


def serve(config: Config, files: ModelFiles, story: Story, reservation: Reservation) -> int:
    """Start the engine, then import the server: both take most of a second, so they do it side by side."""
    engine = process.start(config, files.path)
    from tgi.server.app import run as run_server  # noqa: PLC0415

    def ready(facts: EngineReady, url: str) -> None:
        story.ready(facts, url)
        settle()

    return run_server(
        config, files, ready=ready, stopping=story.stopping, reservation=reservation, engine=engine,
        compute_type=compute_type(),
    )  # fmt: skip


_BUILD = "; install a C++ compiler, then the package again (`tgi doctor` says how)"


class Story:
    """Tells a start-up as it happens, line by line.

    `started_s` is when the user began to wait, by `clock`; None is now. `verbosity` is -1 for warnings alone, and 1 or
    more for the reason of every limit. `announce` is called when the server is ready.
    """

    def __init__(
        self,
        config: Config,
        console: Console,
        *,
        started_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        verbosity: int = 0,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._console = console
        self._clock = clock
        self._verbosity = verbosity
        self._announce = announce
        self._phase = clock()
        self._started = self._phase if started_s is None else started_s
        self._files: ModelFiles | None = None

    def warn(self, message: str) -> None:
        """Something the user should know, although the start goes on."""
        if self._config.telemetry.json_output:
            logger.warning(message)
        else:
            warn(message)

    def environment(self) -> None:
        """The report of `--env`."""
        for name, value in runtime_report():
            self._row(name, value)

    def found(self, files: ModelFiles) -> None:
        """The model's files are on this machine."""
        self._files = files
        self._row("model", f"{_model(files)} ({self._lap():.2f} s)")
        self._row("files", str(files.path))

    def ready(self, engine: EngineReady, url: str) -> None:
        """The server listens and can generate: everything a user needs next."""
        waited, model = self._lap(), self._config.model
        quantize = f", {engine.quantize}" if engine.quantize else ""
        self._row(
            "engine", f"{engine.model_type}, {engine.dtype}{quantize} on {engine.device}, {engine.kernels} kernels"
        )
        if engine.device == "cpu" and engine.kernels != "torch" and not (model.quantize or model.dtype):
            self._row("faster", "--quantize int8: close to exact, much less time for prompts and many requests at once")
        self._row("start", f"weights {engine.load_s:.2f} s, warm-up {engine.warmup_s:.2f} s, all {waited:.2f} s")
        self._row("memory", _ledger(engine.memory))
        self._row("kv cache", f"{engine.num_blocks * engine.block_size:,} tokens in blocks of {engine.block_size}")
        self._row("limits", self._limits(engine))
        if self._verbosity > 0:
            self._reasons(engine)
        self._row("api key", "required" if self._config.http.api_key else "none: every request is answered")
        if not self._config.http.api_key and not _is_loopback(self._config.http.hostname):
            self.warn(f"`--hostname {self._config.http.hostname}` lets other machines in, and there is no `--api-key`")
        if engine.kernels == "torch":
            asked = model.disable_custom_kernels
            why = "`--disable-custom-kernels` was given" if asked else "the native kernels were not built"
            self.warn(f"{why}, so torch computes: many times slower, and with more memory{'' if asked else _BUILD}")
        self._tell(f"ready in {self._clock() - self._started:.2f} s: {url}")
        if not self._config.telemetry.json_output:
            self._tell(f"try: {self._example(url)}")
        self._tell("Connected")  # TGI's word: scripts wait for it
        self._announce()

    def stopping(self, running: int) -> None:
        """A signal asked for the end."""
        limit_s = self._config.http.graceful_termination_timeout
        wait = f"up to {limit_s:g} s for {running} running requests; again: at once" if running else "nothing runs"
        self._tell(f"stopping: {wait}")

    def _reasons(self, engine: EngineReady) -> None:
        chosen = effective_choices(engine.memory, engine.max_total_tokens, self._config.limits.max_input_tokens)
        for name, value, reason in chosen:
            self._row("chosen", f"{name} {value}: {reason}")

    def _limits(self, engine: EngineReady) -> str:
        limits = self._config.limits
        total = engine.max_total_tokens
        longest = limits.max_input_tokens or total - 1
        return (
            f"prompt {longest:,}, prompt and answer {total:,} tokens; step {engine.max_step_tokens:,} tokens; "
            f"{engine.max_rows:,} requests at once, {limits.max_concurrent_requests:,} admitted"
        )

    def _example(self, url: str) -> str:
        body = json.dumps({"inputs": EXAMPLE_PROMPT, "parameters": {"max_new_tokens": 20}})
        key = " -H 'Authorization: Bearer YOUR_KEY'" if self._config.http.api_key else ""
        return f"curl -N {url}/generate_stream{key} -H 'Content-Type: application/json' -d '{body}'"

    def _row(self, name: str, value: str) -> None:
        self._tell(f"  {name:<9} {value}" if not self._config.telemetry.json_output else f"{name}: {value}")

    def _tell(self, line: str) -> None:
        if self._verbosity < 0:
            return
        if self._config.telemetry.json_output:
            logger.info(line)
        else:
            self._console.print(line, markup=False)

    def _lap(self) -> float:
        """Seconds since the last phase ended."""
        before, self._phase = self._phase, self._clock()
        return self._phase - before


def effective_choices(
    memory: MemoryLedger, max_total_tokens: int, max_input_tokens: int | None
) -> list[tuple[str, str, str]]:
    """The engine's choices and what the front end makes of them: name, value and reason of each limit."""
    rows = [(choice.name, choice.value, choice.reason) for choice in memory.choices]
    for index, (name, value, _) in enumerate(rows):
        if name == "max-total-tokens" and int(value) != max_total_tokens:
            rows[index] = (name, str(max_total_tokens), "the tokenizer's model_max_length")
    reason = "as asked" if max_input_tokens else "one less than max-total-tokens, so that there is an answer"
    return [*rows, ("max-input-tokens", str(max_input_tokens or max_total_tokens - 1), reason)]


def leave_when_told() -> None:
    """Let a signal that comes before the server runs end the process with code 0, as one that comes later does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _model(files: ModelFiles) -> str:
    return f"{files.model_id} @ {files.revision[:12]}" if files.revision else files.model_id


def _ledger(memory: MemoryLedger) -> str:
    spent = memory.weights + memory.kv_cache + memory.activations
    return (
        f"weights {size(memory.weights)} + KV cache {size(memory.kv_cache)} + activations {size(memory.activations)}"
        f" = {size(spent)} of {size(memory.available)}"
    )


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"
