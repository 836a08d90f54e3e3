"""`tgi launch` with real processes: what dies is started again, signals end it with 0, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.live import START_S, LiveServer
from tests.real_model import default_gguf

STORY = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 200, "ignore_eos": True}}


@pytest.fixture
def launched() -> Iterator[LiveServer]:
    """A launcher that serves the default model."""
    with LiveServer("--model-id", str(default_gguf()), command="launch") as server:
        yield server


def family(server: LiveServer) -> list[psutil.Process]:
    """Every process below the launcher."""
    return psutil.Process(server.process.pid).children(recursive=True)


def front_end(server: LiveServer) -> psutil.Process:
    """The process that answers requests: the launcher's only child."""
    (child,) = psutil.Process(server.process.pid).children()
    return child


def heard(server: LiveServer, word: str) -> str:
    """The next line that holds `word`."""
    while True:
        line = server._queue.get(timeout=START_S)
        assert line is not None, "".join(server.lines)
        if word in line:
            return line


def ended(processes: list[psutil.Process]) -> bool:
    """Whether all of them have ended soon; one that waits for its burial by process 1 has."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_killed_server_is_started_again_and_its_engine_is_gone(launched: LiveServer) -> None:
    before = family(launched)
    port = launched.url.rsplit(":", 1)[1]
    front_end(launched).kill()
    assert "was killed by SIGKILL" in heard(launched, "warning:")
    line = heard(launched, "ready in")
    assert port in line or "http://127.0.0.1:" in line
    heard(launched, "Connected")
    assert ended(before)
    launched.url = "http://127.0.0.1:" + line.strip().rsplit(":", 1)[1]
    assert launched.post("/generate", STORY | {"parameters": {"max_new_tokens": 2}})["generated_text"]
    assert launched.stop() == 0


def test_a_killed_launcher_leaves_no_process_behind(launched: LiveServer) -> None:
    children = family(launched)
    assert len(children) >= 2
    launched.process.kill()
    launched.process.wait()
    assert ended(children)


def test_a_stream_that_runs_when_the_signal_comes_is_completed(launched: LiveServer) -> None:
    with launched.open("/generate_stream", STORY) as response:
        first = response.readline()
        launched.process.send_signal(signal.SIGTERM)
        events = [json.loads(line[5:]) for line in (first, *response) if line.startswith(b"data:")]
    assert len(events) == 200
    assert events[-1]["generated_text"]
    assert launched.process.wait(timeout=30) == 0


def test_the_reason_of_every_limit_is_told(launched: LiveServer) -> None:
    told = [line for line in launched.lines if " chosen " in line]
    info = launched.get("/info")
    for name in ("max-input-tokens", "max-total-tokens", "max-batch-total-tokens"):
        (line,) = [line for line in told if f"chosen    {name} " in line]
        value, _, reason = line.split(f"{name} ")[1].partition(": ")
        assert int(value) == info[name.replace("-", "_")]
        assert reason.strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_ends_with_0(number: signal.Signals) -> None:
    words = [sys.executable, "-m", "tgi", "launch", "--port", "0", "--model-id", str(default_gguf())]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while " files " not in process.stderr.readline():
            pass
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert ended(children)
        assert "Traceback" not in process.stderr.read()


def with_a_download(body: str) -> list[str]:
    """A launcher whose download is `body`."""
    code = (
        "import os, sys, time\nfrom tgi.cli import startup\nfrom tgi.errors import ModelError\n"
        f"def fetch(config, verbosity=0):\n    {body}\n"
        "startup.fetch = fetch\n"
        "from tgi.cli.main import main\nmain(['launch', '--port', '0', '--model-id', 'owner/model'])\n"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_download_ends_with_0(number: signal.Signals) -> None:
    words = with_a_download("print('fetching', file=sys.stderr, flush=True); time.sleep(600)")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "fetching" not in process.stderr.readline():
            pass
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert ended(children)
        assert "what was fetched is kept" in process.stderr.read()


def test_a_download_that_fails_ends_with_1_and_no_server_is_started() -> None:
    body = "raise ModelError('`owner/model` does not exist', hint='check the name', exit_code=12)"
    done = subprocess.run(with_a_download(body), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "error: `owner/model` does not exist",
        "hint: check the name",
        "error: DownloadError: the download ended with exit code 12",
    ]


def test_a_model_that_cannot_be_loaded_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(8))
    words = [sys.executable, "-m", "tgi", "launch", "--port", "0", "--model-id", str(tmp_path / "model.gguf")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ShardCannotStart" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_arguments_and_a_busy_port_are_known_before_anything_starts() -> None:
    started = with_a_download("os._exit(99)")
    for words in (["--max-input-tokens", "9", "--max-total-tokens", "9"], ["--num-shard", "2"]):
        done = subprocess.run([*started[:2], started[2].replace("'--port', '0'", repr(words)[1:-1])],
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        assert (done.returncode, done.stderr.count("error:")) == (1, 1), done.stderr
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*started[:2], started[2].replace("'0'", f"'{port}'")],
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 11
    assert f"port {port} is in use" in done.stderr
    assert "--port" in done.stderr


def test_the_launcher_does_without_the_server_s_imports() -> None:
    code = (
        "import sys\nfrom tgi.cli import launch, supervision\n"
        "loaded = [name for name in ('torch', 'aiohttp', 'numpy', 'rich', 'huggingface_hub') if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_with_json_output_every_line_of_all_processes_is_a_record() -> None:
    with LiveServer("--model-id", str(default_gguf()), "--json-output", command="launch") as server:
        assert server.stop() == 0
    messages = [json.loads(line)["message"] for line in server.lines]
    assert messages[0].startswith("tgi launch ")
    assert "Connected" in messages
    assert messages[-1].startswith("stopping: ")
