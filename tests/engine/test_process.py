"""The engine process: it starts from any program, ends with its front end, and ignores everybody else."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeRunner, make_request
from tgi.config import Config
from tgi.engine import process
from tgi.engine.messages import AddRequest, EngineFailed, EngineReady, FromEngine, Shutdown, StepBegins
from tgi.wire import Channel

FAKE = "tests.fakes:load_fake_runner"


@pytest.fixture
def handle() -> Iterator[process.EngineHandle]:
    """A running engine, killed afterwards."""
    handle = process.start(Config(), Path("{}"), runner=FAKE)
    yield handle
    handle.kill()
    handle.reap()


def _channel(handle: process.EngineHandle) -> Channel[Any, Any]:
    channel: Channel[Any, Any] = Channel(handle.socket, FromEngine)
    assert isinstance(channel.receive(), EngineReady)
    return channel


def test_an_engine_ends_when_its_socket_is_closed(handle: process.EngineHandle) -> None:
    _channel(handle).close()
    assert handle.reap() == "exited with status 0"


def test_an_engine_ends_when_it_is_told_to(handle: process.EngineHandle) -> None:
    channel = _channel(handle)
    channel.send(Shutdown())
    assert handle.reap() == "exited with status 0"
    channel.close()
    handle.kill()  # does nothing
    handle.dump_stacks()


def test_a_killed_engine_is_seen_at_the_sentinel_and_in_the_socket(handle: process.EngineHandle) -> None:
    channel = _channel(handle)
    assert select.select([handle.sentinel], [], [], 0)[0] == []
    handle.kill()
    assert select.select([handle.sentinel], [], [], 10)[0] == [handle.sentinel]
    assert channel.waiting(timeout_s=10)
    assert handle.reap() == "was killed by SIGKILL"
    channel.close()


def test_signals_for_the_front_end_do_not_stop_the_engine_and_stacks_can_be_seen(
    capfd: pytest.CaptureFixture[str],
) -> None:
    handle = process.start(Config(), Path("{}"), runner=FAKE)  # here, where its stderr is captured
    channel = _channel(handle)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(handle.pid, number)
    handle.dump_stacks()
    channel.send(AddRequest(make_request(1, [1])))
    assert channel.receive() == StepBegins((1,))
    channel.close()
    handle.reap()
    assert "core.py" in capfd.readouterr().err


def load_runner_with_a_driver(config: Config, model_path: Path) -> FakeRunner:
    """A runner that looks for the driver as torch does: by its bare name. `model_path` is the name, in JSON."""
    assert ctypes.CDLL(json.loads(str(model_path))).driver_version() == 12090
    return FakeRunner()


def test_the_engine_finds_a_driver_by_name_that_only_we_know_the_place_of(tmp_path: Path) -> None:
    name = "libtgi_test_driver.so.1"
    source = tmp_path / "driver.c"
    source.write_text("int driver_version(void) { return 12090; }\n")
    subprocess.run(["c++", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", tmp_path / name, source],
                   check=True)  # fmt: skip
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"not a library")
    runner = "tests.engine.test_process:load_runner_with_a_driver"
    for preload, answer in (((str(damaged), str(tmp_path / name)), EngineReady), ((), EngineFailed)):
        handle = process.start(Config(preload=preload), Path(json.dumps(name)), runner=runner)
        channel: Channel[Any, Any] = Channel(handle.socket, FromEngine)
        assert isinstance(channel.receive(), answer)
        channel.close()
        handle.kill()
        handle.reap()


# No guard against being run twice, no ending, and nothing that a child should need.
CONSOLE_SCRIPT = """
import sys
from pathlib import Path
from tgi.config import Config
from tgi.engine import client, process
from tgi.engine.messages import FromEngine
from tgi.wire import Channel

print("running", flush=True)
handle = process.start(Config(), Path("{}"), runner="tests.fakes:load_fake_runner")
print(type(Channel(handle.socket, FromEngine).receive()).__name__, handle.pid, flush=True)
print("torch" in sys.modules, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that started an engine, and waits for the end of its standard input."""
    script = tmp_path / "tgi-script"
    script.write_text(CONSOLE_SCRIPT)
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    ) as front:  # fmt: skip
        yield front
        front.kill()


def _engine_pid(front: subprocess.Popen[str]) -> int:
    assert front.stdout is not None
    assert front.stdout.readline() == "running\n"
    name, pid = front.stdout.readline().split()
    assert name == "EngineReady"
    assert front.stdout.readline() == "False\n", "the front end loaded torch"
    return int(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="waits with pidfd_open")
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_no_engine_outlives_its_front_end(front: subprocess.Popen[str], killed: bool) -> None:
    engine = os.pidfd_open(_engine_pid(front))
    if killed:
        front.kill()
    else:
        assert front.stdin is not None
        front.stdin.close()
    assert select.select([engine], [], [], 10)[0] == [engine]
    os.close(engine)
    assert front.wait(10) == (-signal.SIGKILL if killed else 0)
