"""Streamed tokens a second that the front end can hand out: `python -m benchmarks.front_end`.

The real front end over an engine process without a model, which answers every request with made-up tokens, a step as
soon as the one before is sent. The client is a third process that counts events without parsing them. The figure is
tokens for each second of processor time the front end used, hence of one core, whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.peers.programs import free_port
from tgi.config import Config, Http, Limits
from tgi.engine import process
from tgi.hub.files import find_local
from tgi.runner.ledger import MemoryLedger
from tgi.runner.plan import StepPlan, StepResult
from tgi.server import app

ROUTES = ("/generate_stream", "/v1/completions", "/v1/chat/completions")


class NullRunner:
    """A runner that computes nothing: token ids go round the ordinary ones."""

    model_type, dtype, device, kernels, quantize = "null", "float32", "cpu", "none", None
    vocab_size, block_size, num_blocks, max_total_tokens = 49152, 16, 1 << 14, 8192
    max_step_tokens, max_rows, load_s, warmup_s = 4096, 512, 0.0, 0.0
    memory = MemoryLedger(weights=0, activations=0, kv_block=0, kv_cache=0, available=1)

    def rope_variant(self, total_len: int) -> int:
        """Always the first."""
        return 0

    def warm_up(self) -> None:
        """Nothing to warm."""

    def execute(self, plan: StepPlan) -> StepResult:
        """The next id for every row."""
        token_ids = np.where(plan.sample, 1000 + plan.context_lens[: len(plan.sample)] % 20000, plan.targets)
        return StepResult(plan.logits_rows, token_ids.astype(np.int32), np.full(len(token_ids), -0.5, np.float32))


class PacedRunner(NullRunner):
    """A runner that waits as long as computing might take, and leaves the processor to others meanwhile."""

    STEP_S = 0.015
    PROMPT_TOKEN_S = 0.001

    def execute(self, plan: StepPlan) -> StepResult:
        """The next id for every row, after a while."""
        prompt_tokens = len(plan.input_ids) - len(plan.context_lens)
        time.sleep(self.STEP_S + self.PROMPT_TOKEN_S * max(0, prompt_tokens))
        return super().execute(plan)


def load_null_runner(config: Config, model_path: Path) -> NullRunner:
    """What the engine process calls instead of loading a model."""
    return NullRunner()


def load_paced_runner(config: Config, model_path: Path) -> PacedRunner:
    """The same, at a pace."""
    return PacedRunner()


def serve(port: int, model: str, load: str = "load_null_runner") -> None:
    """The front end, with an engine behind it that computes nothing; its log lines go nowhere."""
    logging.disable(logging.CRITICAL)
    config = Config(http=Http(hostname="127.0.0.1", port=port), limits=Limits(max_concurrent_requests=512))
    files = find_local(model)
    if files is None:
        raise SystemExit(f"error: there is no model at `{model}`")
    engine = process.start(config, files.path, runner=f"benchmarks.front_end:{load}")
    app.run(config, files, ready=lambda *facts: None, engine=engine)


async def stream(session: aiohttp.ClientSession, url: str, route: str, number: int, new_tokens: int) -> int:
    """One request; returns how many events came."""
    words = f"Story {number}"
    body: dict[str, Any] = {"inputs": words, "parameters": {"max_new_tokens": new_tokens}}
    if route != "/generate_stream":
        body = {"model": "tgi", "max_tokens": new_tokens, "stream": True, "prompt": words}
    if route == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    events = 0
    async with session.post(url + route, json=body) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            events += chunk.count(b"data:")
    return events


async def measure(pid: int, url: str, route: str, streams: int, new_tokens: int) -> dict[str, float]:
    """All streams at once; returns tokens a second of the front end's own processor time, and of the wall's."""
    front_end = psutil.Process(pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        before, begin = front_end.cpu_times(), time.perf_counter()
        counts = await asyncio.gather(*(stream(session, url, route, n, new_tokens) for n in range(streams)))
        after, wall_s = front_end.cpu_times(), time.perf_counter() - begin
    busy_s = after.user + after.system - before.user - before.system
    assert sum(counts) >= streams * new_tokens
    return {"tokens_per_core_s": streams * new_tokens / busy_s, "tokens_per_s": streams * new_tokens / wall_s}


async def wait_ready(url: str) -> None:
    """Until the server answers."""
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url + "/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise SystemExit("error: the front end did not become ready")


def main() -> None:
    """Measure every route in turns, and print one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a model's file or folder, for its tokenizer")
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    child = multiprocessing.get_context("spawn").Process(target=serve, args=(port, options.model))
    child.start()
    assert child.pid is not None
    samples: dict[str, list[dict[str, float]]] = {route: [] for route in ROUTES}
    try:
        asyncio.run(wait_ready(url))
        for _ in range(options.rounds):
            for route, found in samples.items():
                found.append(asyncio.run(measure(child.pid, url, route, options.streams, options.new_tokens)))
    finally:
        child.terminate()
        child.join()
    for route, found in samples.items():
        medians = {name: round(statistics.median(one[name] for one in found)) for name in found[0]}
        best = round(max(one["tokens_per_core_s"] for one in found))
        print(json.dumps({"route": route, "streams": options.streams, **medians, "best_tokens_per_core_s": best}))


if __name__ == "__main__":
    main()
