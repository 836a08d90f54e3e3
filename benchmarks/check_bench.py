"""`tgi bench` against guidellm: the same server, the same load, and figures that should be the same.

    python -m benchmarks.check_bench --model-id ./model.gguf --streams 4 --requests 32 --rounds 5

Starts a server (or takes a running one with `--url`), gives both tools prompts of the same lengths on
`/v1/completions`, and lets them take turns. Prints the medians over the rounds of throughput and of the median time to
the first token, and their ratio; exit code 1 if one is off by more than `--tolerance`. guidellm gets an environment of
its own in the user's cache folder, which pip fills at the first use; `--guidellm` names an executable instead.

On a machine with few cores the tool that uses more of the processor slows the server it measures. `--paced` asks our
front end over an engine that waits 15 ms a step and 1 ms a prompt token instead of computing: then both tools meet the
same server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks import front_end
from tgi.bench.client import open_session
from tgi.bench.endpoint import connect
from tgi.bench.prompts import LocalCounter, prompt_maker
from tgi.cli.bench_model import tokenizer
from tgi.cli.bench_server import serving

REQUIREMENT = "guidellm==0.8.1"
LIMIT_S = 900


def installed() -> Path:
    """guidellm's executable, in an environment of its own."""
    folder = platformdirs.user_cache_path("tgi") / "clients" / "guidellm"
    program = folder / "bin" / "guidellm"
    if not program.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", REQUIREMENT], check=True)
    return program


def run(command: Sequence[str | Path]) -> str:
    """Stdout of a command. Raises: SystemExit with the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def ours(url: str, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """One round of `tgi bench`: output tokens/s and the median time to the first token in ms."""
    text = run([sys.executable, "-m", "tgi", "bench", f"{url}/v1/completions", "-c", str(options.streams), "-n",
                str(options.requests), "-s", str(options.prompt_tokens), "-d", str(options.new_tokens), "--seed",
                str(seed), "-w", "0", "--no-roof", "--no-progress", "--json"])  # fmt: skip
    summary = json.loads(text)["steps"][0]["summary"]
    assert summary["completed"] == options.requests, summary
    return {"output tokens/s": summary["output_token_rate"], "TTFT p50 ms": summary["ttft_ms"]["p50"]}


def theirs(
    url: str, program: Path, model: str, options: argparse.Namespace, folder: Path, prompts: Sequence[str]
) -> dict[str, float]:
    """The same by guidellm, from its own record of every request."""
    data, output = folder / "data.jsonl", folder / "out.json"
    rows = [{"prompt": prompt, "output_tokens_count": options.new_tokens} for prompt in prompts]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run([program, "run", "--backend", f"kind=openai_http,target={url},model={model},request_format=/v1/completions",
         "--profile", f"kind=concurrent,streams={options.streams}", "--constraint",
         f"kind=max_requests,count={options.requests}", "--tokenizer", f"kind=huggingface_auto,model={folder}",
         "--data", f"kind=json_file,path={data}", "--output", f"kind=json,path={output}",
         "--disable-console"])  # fmt: skip
    requests: list[dict[str, Any]] = json.loads(output.read_text())["benchmarks"][0]["requests"]["successful"]
    assert len(requests) == options.requests, len(requests)
    assert all(request["output_tokens"] == options.new_tokens for request in requests), "answers of other lengths"
    seconds = max(one["request_end_time"] for one in requests) - min(one["request_start_time"] for one in requests)
    return {
        "output tokens/s": options.requests * options.new_tokens / seconds,
        "TTFT p50 ms": statistics.median(one["time_to_first_token_ms"] for one in requests),
    }


async def prepare(url: str, options: argparse.Namespace, folder: Path) -> tuple[str, list[list[str]]]:
    """The model's name, and prompts of exactly the length for every round, none of which comes twice."""
    found = tokenizer(options.tokenizer, "main")
    found.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
    async with open_session(60.0) as session:
        endpoint = await connect(session, f"{url}/v1/completions")
    maker = await prompt_maker(LocalCounter(found), seed=987_654)
    numbers = iter(range(options.rounds * options.requests))
    rounds = [
        [await maker.make(next(numbers), options.prompt_tokens) for _ in range(options.requests)]
        for _ in range(options.rounds)
    ]
    return endpoint.target.model.id, rounds


async def measure(options: argparse.Namespace, url: str, program: Path) -> bool:
    """All rounds and the table. Returns: whether both tools agree."""
    results: dict[str, list[dict[str, float]]] = {"tgi bench": [], "guidellm": []}
    with tempfile.TemporaryDirectory() as name:
        model, rounds = await prepare(url, options, Path(name))
        await asyncio.to_thread(ours, url, options, 1)  # both meet a server that is warm
        for number, prompts in enumerate(rounds):
            mine = await asyncio.to_thread(ours, url, options, 2 + number)
            other = await asyncio.to_thread(theirs, url, program, model, options, Path(name), prompts)
            results["tgi bench"].append(mine)
            results["guidellm"].append(other)
            print(f"round {number + 1} of {options.rounds}: {mine} {other}", file=sys.stderr)
    agree = True
    print("| figure | tgi bench | guidellm | ratio |\n|---|--:|--:|--:|")
    for figure in ("output tokens/s", "TTFT p50 ms"):
        values = {tool: statistics.median(one[figure] for one in found) for tool, found in results.items()}
        ratio = values["tgi bench"] / values["guidellm"]
        agree = agree and abs(ratio - 1) <= options.tolerance
        print(f"| {figure} | {values['tgi bench']:.2f} | {values['guidellm']:.2f} | {ratio:.3f} |")
    return agree


@contextlib.contextmanager
def paced(model: str) -> Iterator[str]:
    """Our front end over an engine that waits instead of computing."""
    port = front_end.free_port()
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=front_end.serve, args=(port, model, "load_paced_runner"))
    child.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.join()


async def check(options: argparse.Namespace) -> bool:
    """Against the server that runs, or one of our own."""
    program = options.guidellm or installed()
    if options.url:
        return await measure(options, options.url, program)
    if options.paced:
        with paced(options.model_id) as url:
            await front_end.wait_ready(url)
            return await measure(options, url, program)
    async with serving(["--model-id", options.model_id]) as url:
        return await measure(options, url, program)


def main() -> None:
    """Parse, measure, and end with the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--url", help="a running server; default: start one")
    parser.add_argument("--paced", action="store_true", help="an engine that waits instead of computing")
    parser.add_argument("--model-id", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--tokenizer", help="folder, file or hub id; default: the model's")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--requests", type=int, default=32, help="of each tool in each round")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--guidellm", type=Path, help="its executable; default: an environment of its own")
    options = parser.parse_args()
    options.tokenizer = options.tokenizer or options.model_id
    sys.exit(0 if asyncio.run(check(options)) else 1)


if __name__ == "__main__":
    main()
