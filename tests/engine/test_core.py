"""EngineCore over a real socket pair, in a thread of the test."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeRunner, expected_tokens, make_request
from tests.tiny_models import tiny_model
from tgi.config import Config
from tgi.engine import core
from tgi.engine.messages import (
    Abort,
    AddRequest,
    EngineFailed,
    EngineReady,
    FromEngine,
    Idle,
    RequestFailed,
    Shutdown,
    StepBegins,
    StepOutput,
)
from tgi.errors import EngineGone, ModelError
from tgi.kernels.cpu import find_library
from tgi.runner.plan import StepPlan, StepResult
from tgi.wire import Channel

Front = Channel[Any, Any]


class Engine:
    """`core.main` in a thread, and the front end's channel to it."""

    def __init__(self, load: Callable[[], core.Runner]) -> None:
        ours, theirs = socket.socketpair()
        self.front: Front = Channel(ours, FromEngine)
        self.status: object = None
        self._thread = threading.Thread(target=self._run, args=(theirs, load))
        self._thread.start()

    def _run(self, sock: socket.socket, load: Callable[[], core.Runner]) -> None:
        with sock:
            try:
                core.main(sock, Config(), load)
            except SystemExit as end:
                self.status = end.code

    def join(self) -> object:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.status


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """Starts engines on threads, where there are no signals to set."""
    monkeypatch.setattr(core, "_prepare_signals", lambda: None)
    engines: list[Engine] = []

    def start(load: Callable[[], core.Runner] = FakeRunner) -> Engine:
        engines.append(Engine(load))
        return engines[-1]

    yield start
    for started in engines:
        started.front.close()
        started.join()


def _until(front: Front, wanted: type) -> list[Any]:
    messages: list[Any] = []
    while not messages or not isinstance(messages[-1], wanted):
        messages.append(front.receive())
    return messages


def _tokens(messages: list[Any]) -> list[int]:
    outputs = [message for message in messages if isinstance(message, StepOutput)]
    return [token for output in outputs for token in np.frombuffer(output.token_ids, np.int32).tolist()]


def test_an_engine_says_its_limits_then_generates_then_shuts_down(engine: Callable[..., Engine]) -> None:
    started = engine()
    ready = started.front.receive()
    assert isinstance(ready, EngineReady)
    assert (ready.num_blocks, ready.block_size, ready.max_rows) == (64, 4, 8)
    request = make_request(3, range(20))
    started.front.send(AddRequest(request))
    begins, *steps = [started.front.receive() for _ in range(10)]
    assert begins == StepBegins((3,))
    assert _tokens(steps) == expected_tokens(request)
    started.front.send(Shutdown())
    assert started.join() is None


def test_end_of_file_ends_the_engine_silently(engine: Callable[..., Engine]) -> None:
    started = engine()
    started.front.receive()
    started.front.close()
    assert started.join() is None


def test_an_abort_that_leaves_no_work_reports_the_free_blocks(engine: Callable[..., Engine]) -> None:
    runner = FakeRunner(step_s=0.001)
    started = engine(lambda: runner)
    started.front.receive()
    started.front.send(AddRequest(make_request(1, [1], max_new_tokens=150)))
    _until(started.front, StepOutput)
    started.front.send(Abort((1,)))
    assert _until(started.front, Idle)[-1].free_blocks == runner.num_blocks


def test_an_abort_takes_effect_before_the_next_plan(engine: Callable[..., Engine]) -> None:
    computing, go = threading.Event(), threading.Event()
    plans: list[StepPlan] = []

    class Slow(FakeRunner):
        def execute(self, plan: StepPlan) -> StepResult:
            plans.append(plan)
            computing.set()
            assert go.wait(20)
            return super().execute(plan)

    started = engine(Slow)
    started.front.receive()
    for request_id in (1, 2):
        started.front.send(AddRequest(make_request(request_id, [request_id], max_new_tokens=3)))
    assert computing.wait(20)
    started.front.send(Abort((1, 77)))
    started.front.send(AddRequest(make_request(5, [5], max_new_tokens=1)))
    go.set()
    stats = None
    while stats is None or stats.running:
        stats = _until(started.front, StepOutput)[-1].stats
    rows_of_first = set(plans[0].logits_rows.tolist())
    assert plans[1].ended
    assert set(plans[1].ended) <= rows_of_first
    assert all(1 not in plan.input_ids.tolist() for plan in plans[1:])


def test_out_of_memory_fails_the_requests_of_the_step_and_the_engine_goes_on(engine: Callable[..., Engine]) -> None:
    started = engine(lambda: FakeRunner(faults={200: "oom"}))
    started.front.receive()
    started.front.send(AddRequest(make_request(1, [200])))
    assert _until(started.front, RequestFailed)[-1] == RequestFailed((1,), "out of memory")
    request = make_request(2, [3, 4])
    started.front.send(AddRequest(request))
    messages = [started.front.receive() for _ in range(9)]
    assert _tokens(messages) == expected_tokens(request)


def test_a_request_that_can_never_fit_fails_alone(engine: Callable[..., Engine]) -> None:
    started = engine()
    started.front.receive()
    started.front.send(AddRequest(make_request(1, range(190), max_new_tokens=50)))
    failure = started.front.receive()
    assert isinstance(failure, RequestFailed)
    assert failure.ids == (1,)
    assert "240 tokens do not fit" in failure.reason


def test_any_other_exception_names_the_steps_members_and_ends_the_engine(engine: Callable[..., Engine]) -> None:
    started = engine(lambda: FakeRunner(faults={200: "raise"}))
    started.front.receive()
    started.front.send(AddRequest(make_request(9, [200])))
    failure = _until(started.front, EngineFailed)[-1]
    assert failure.reason == "RuntimeError: the kernel failed"
    assert "in execute" in failure.traceback
    assert (failure.request_ids, failure.fatal) == ((9,), False)
    with pytest.raises(EngineGone):
        started.front.receive()
    assert started.join() == 1


@pytest.mark.parametrize(
    ("error", "fatal", "exit_code", "reason"),
    [
        (ModelError("no weights", hint="download them", exit_code=12), True, 12, "no weights"),
        (MemoryError(), True, 17, "out of memory while loading"),
        (KeyError("q_proj"), False, 1, "KeyError: 'q_proj'"),
    ],
    ids=["model", "memory", "bug"],
)
def test_a_failure_to_load_says_whether_another_try_can_help(
    engine: Callable[..., Engine], error: Exception, fatal: bool, exit_code: int, reason: str
) -> None:
    def load() -> core.Runner:
        raise error

    started = engine(load)
    failure = started.front.receive()
    assert isinstance(failure, EngineFailed)
    assert (failure.reason, failure.fatal, failure.exit_code) == (reason, fatal, exit_code)
    assert bool(failure.hint) == fatal
    assert started.join() == 1


def test_torchs_out_of_memory_is_known_by_its_name() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert core.is_out_of_memory(OutOfMemoryError())
    assert core.is_out_of_memory(MemoryError())
    assert not core.is_out_of_memory(RuntimeError())


SERVE = """
import json, pathlib, sys
from tests.step_plans import Driver
from tgi.config import Config, Limits, Model
from tgi.engine.core import load_runner
from tgi.guidance.grammar import Compiler, Constraint
from tgi.sampling import SamplingParams

folder, options = sys.argv[1], json.loads(sys.argv[2])
runner = load_runner(Config(model=Model(model_id=folder, **options), limits=Limits(max_total_tokens=64)),
                     pathlib.Path(folder))
runner.warm_up()
driver = Driver(runner)
everything = SamplingParams(
    do_sample=True, seed=1, temperature=0.8, top_k=50, top_p=0.9, typical_p=0.95, min_p=0.01, repetition_penalty=1.2,
    frequency_penalty=0.1, presence_penalty=0.1, no_repeat_ngram_size=3, logit_bias={7: 1.0}, bad_words=((9, 8),),
    watermark_gamma=0.5, watermark_delta=1.0, grammar=Compiler().compile(Constraint("regex", "[ab]+")))
sequences = [driver.add([5, 6, 7]), driver.add([5, 6, 8], everything, top_tokens=3), driver.add([1, 2, 3], score=True)]
driver.step(*((sequence, 3) for sequence in sequences))
result = driver.step(*((sequence, 1) for sequence in sequences[:2]))
print(json.dumps([sorted(result.failed.values()), "torch" in sys.modules]))
"""


@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
@pytest.mark.parametrize(
    ("model_type", "options", "loaded"),
    [
        ("llama", {}, False),
        ("llama", {"quantize": "int8"}, False),
        ("gpt2", {"dtype": "bfloat16"}, False),
        ("llama", {"disable_custom_kernels": True}, True),
    ],
)
def test_torch_is_loaded_only_to_compute(
    model_type: str, options: dict[str, Any], loaded: bool, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "model", model_type)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", SERVE, str(folder), json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout or "null") == [[], loaded], done.stderr
