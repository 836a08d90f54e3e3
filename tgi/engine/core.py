"""The engine process: receive, plan, compute, report, until the front end is gone.

The runner is imported by `load_runner` alone, in the child, once signals and sockets are in place.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tgi.config import Config
from tgi.engine.messages import (
    Abort,
    AddRequest,
    EngineFailed,
    EngineReady,
    FromEngine,
    Idle,
    MemoryLedger,
    RequestFailed,
    Shutdown,
    StepBegins,
    ToEngine,
)
from tgi.engine.scheduler import Scheduler
from tgi.errors import EngineGone, TgiError
from tgi.footprint import settle
from tgi.runner.pace import Pace
from tgi.runner.plan import StepPlan, StepResult
from tgi.wire import Channel

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What the engine needs of `tgi.runner.runner.ModelRunner`; the attributes are reported as `EngineReady`."""

    model_type: str
    dtype: str
    device: str
    quantize: str | None
    kernels: str
    vocab_size: int
    num_blocks: int
    block_size: int
    max_total_tokens: int
    max_step_tokens: int
    max_rows: int
    memory: MemoryLedger
    load_s: float
    warmup_s: float

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute a step. Raises: MemoryError if it does not fit; anything else means that the state is unknown."""

    def rope_variant(self, total_len: int) -> int:
        """Which table of rotations a request uses that may grow to `total_len` tokens."""

    def warm_up(self) -> None:
        """Compute once, so that the first request does not pay for it."""


class EngineCore:
    """The loop of the engine process: it owns the scheduler, and is the only caller of the runner."""

    def __init__(self, runner: Runner, channel: Channel[FromEngine, ToEngine], *, prefix_caching: bool = True) -> None:
        self._runner = runner
        self._channel = channel
        self._pace = Pace(runner.max_step_tokens)
        self._scheduler = Scheduler(
            num_blocks=runner.num_blocks,
            block_size=runner.block_size,
            max_rows=runner.max_rows,
            max_step_tokens=runner.max_step_tokens,
            max_total_tokens=runner.max_total_tokens,
            rope_variant=runner.rope_variant,
            prefix_caching=prefix_caching,
        )

    def run(self) -> None:
        """Serve until `Shutdown`.

        Raises: EngineGone when the front end is gone; `StepFailed` when the engine's state is unknown.
        """
        while self._receive():
            try:
                if not self._scheduler.idle:
                    self._step()
            except EngineGone:
                raise
            except Exception as error:
                raise StepFailed(self._scheduler.planned_ids or self._scheduler.running_ids) from error

    def _receive(self) -> bool:
        """Take in all messages that have arrived, waiting for one when there is nothing to compute.

        Returns: False when the engine shall end.
        """
        while self._scheduler.idle or self._channel.waiting():
            message = self._channel.receive()
            if isinstance(message, AddRequest):
                try:
                    self._scheduler.add(message.request)
                except ValueError as error:
                    self._channel.send(RequestFailed(ids=(message.request.id,), reason=str(error)))
            elif isinstance(message, Abort):
                self._scheduler.abort(message.ids)
                if self._scheduler.idle:
                    self._channel.send(Idle(free_blocks=self._scheduler.num_free_blocks))
            elif isinstance(message, Shutdown):
                return False
        return True

    def _step(self) -> None:
        plan = self._scheduler.plan(self._pace.step_tokens())
        if plan is None:
            raise RuntimeError("requests are pending, yet there is nothing to compute")
        if plan.started:
            self._channel.send(StepBegins(ids=self._scheduler.started_ids))
        try:
            result = self._runner.execute(plan)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            ids = self._scheduler.planned_ids
            logger.error("a step of %d tokens ran out of memory; its %d requests fail", len(plan.input_ids), len(ids))
            self._scheduler.abort(ids)
            self._channel.send(RequestFailed(ids=ids, reason="out of memory"))
            return
        output, failed = self._scheduler.update(plan, result)
        step_s, stats = result.forward_s + result.sample_s, output.stats
        decoding = output.finish.count(0)
        prompts = stats.waiting + stats.running - decoding
        self._pace.learn(decoding, prompts, stats.decode_tokens, stats.prefill_tokens, step_s)
        self._channel.send(output)
        for message in failed:
            self._channel.send(message)


class StepFailed(Exception):
    """A step raised what nobody expects: the engine's state is unknown. `request_ids` are the step's members."""

    def __init__(self, request_ids: tuple[int, ...]) -> None:
        super().__init__("a step failed")
        self.request_ids = request_ids


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was short. torch's own is told by name: torch is not imported here."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def load_runner(config: Config, model_path: Path) -> Runner:
    """The model's runner. Raises: ModelError, ConfigError when it cannot run here."""
    from tgi.checkpoint import open_checkpoint  # noqa: PLC0415  (only this process needs it)
    from tgi.runner.runner import ModelRunner  # noqa: PLC0415

    def load_tokenizer() -> Any:
        from tgi.hub.tokenizer_files import load_encoding  # noqa: PLC0415  (only grammars need it)

        return load_encoding(model_path, config.model.tokenizer_config_path)

    return ModelRunner.load(open_checkpoint(model_path), config=config, load_tokenizer=load_tokenizer)


def main(sock: socket.socket, config: Config, load: Callable[[], Runner]) -> None:
    """Load, report readiness, serve; exits 1 after reporting a failure, and silently when the front end is gone."""
    _prepare_signals()
    channel: Channel[FromEngine, ToEngine] = Channel(sock, ToEngine)
    with contextlib.suppress(EngineGone):
        try:
            runner = load()
            runner.warm_up()
            channel.send(_ready(runner))
            settle()
            EngineCore(runner, channel, prefix_caching=config.batching.prefix_caching).run()
        except EngineGone:
            raise
        except Exception as error:
            channel.send(_failure(error))
            sys.exit(1)


def _prepare_signals() -> None:
    """The front end alone decides when the engine ends: it closes the socket, or kills. SIGUSR1 dumps all stacks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _ready(runner: Runner) -> EngineReady:
    return EngineReady(**{name: getattr(runner, name) for name in EngineReady.__struct_fields__})


def _failure(error: Exception) -> EngineFailed:
    """The engine's last message about an error."""
    if isinstance(error, TgiError):
        return EngineFailed(reason=error.message, traceback="", fatal=True, hint=error.hint, exit_code=error.exit_code)
    text = "".join(traceback.format_exception(error))
    if isinstance(error, StepFailed):
        cause = error.__cause__ or error
        return EngineFailed(reason=f"{type(cause).__name__}: {cause}", traceback=text, request_ids=error.request_ids)
    if is_out_of_memory(error):
        hint = "use a smaller --max-batch-total-tokens or --max-total-tokens, or a smaller model"
        return EngineFailed(reason="out of memory while loading", traceback=text, fatal=True, hint=hint, exit_code=17)
    return EngineFailed(reason=f"{type(error).__name__}: {error}", traceback=text)
