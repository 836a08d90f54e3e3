"""Whole `tgi bench` commands against small servers and a real one."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.fake_server import FakeServer, serve
from tests.live import LiveServer


def bench(server: FakeServer, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`tgi bench URL --no-roof ...` in a process of its own."""

    async def work() -> subprocess.CompletedProcess[str]:
        async with serve(server) as url:
            command = [sys.executable, "-m", "tgi", "bench", url + path, "--no-roof", *arguments]
            return await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
            )

    return asyncio.run(work())


def test_a_pipe_gets_tables_on_stdout_and_progress_on_stderr() -> None:
    done = bench(FakeServer(), "-b", "1", "-b", "2", "-r", "2", "-s", "12", "-d", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| Parameter ")
    assert "| Decode (token) | 1 " in done.stdout
    assert "tokens/secs" in done.stdout
    assert "step 2 of 2: Batch: 2" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("path", ["", "/v1/chat/completions", "/v1/completions"])
def test_every_protocol_gives_one_json_object_with_exact_lengths(path: str) -> None:
    done = bench(FakeServer(), "-c", "2", "-n", "6", "-s", "20", "-d", "3", "--seed", "7", "--json", path=path)
    run = json.loads(done.stdout)
    (step,) = run["steps"]
    assert (step["summary"]["completed"], run["seed"], run["notes"]) == (6, 7, [])
    assert {(t["prompt_tokens"], t["output_tokens"]) for t in step["traces"]} == {(20, 3)}
    assert run["command"].startswith("tgi bench http://")
    assert {"machine", "versions", "command", "seed", "targets"} <= run.keys()


def test_results_go_where_they_are_asked_to(tmp_path: Path) -> None:
    saved = tmp_path / "run.jsonl"
    done = bench(FakeServer(), "--rate", "200", "-n", "5", "-s", "9", "-d", "2", "-o", str(saved), "-o", "csv",
                 "--no-progress")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["completed"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["5"]
    assert [json.loads(line)["type"] for line in saved.read_text().splitlines()] == ["run", "step", *["request"] * 5]
    assert done.stderr == f"note: wrote {saved}\n"


def test_the_seed_gives_the_same_prompts_and_another_gives_others() -> None:
    servers = [FakeServer() for _ in range(3)]
    for server, seed in zip(servers, ("1", "1", "2"), strict=True):
        bench(server, "-c", "1", "-n", "3", "-s", "20", "-d", "2", "--seed", seed)
    prompts = [{body["inputs"] for body in server.bodies} - {"Hello"} for server in servers]
    assert prompts[0] == prompts[1]
    assert not prompts[0] & prompts[2]


def test_if_nothing_succeeds_the_exit_code_says_so() -> None:
    done = bench(FakeServer(failures={n: "429" for n in range(1, 99)}), "-b", "1", "-r", "1")
    assert done.returncode == 1
    assert "error: no request succeeded" in done.stderr
    assert "Model is overloaded" in done.stderr


def test_a_real_server_is_measured_with_exact_prompts(live_server: LiveServer) -> None:
    command = [sys.executable, "-m", "tgi", "bench", live_server.url, "-c", "2", "-n", "4", "-s", "24", "-d", "5",
               "--json", "--no-roof"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert {(t["prompt_tokens"], t["output_tokens"]) for t in run["steps"][0]["traces"]} == {(24, 5)}
    assert run["notes"] == []
    assert run["steps"][0]["server"]["counters"]["tgi_request_success"] == 4
    assert run["targets"][0]["model"]["hash"].startswith("sha256:")
