"""One `tgi bench` from its flags to its output: servers, tokenizer, this machine's limits, the run, the result."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import platformdirs
import uvloop
from rich.console import Console

from tgi.bench import facts, machine, report, results
from tgi.bench.client import open_session
from tgi.bench.compare import compare, merge
from tgi.bench.endpoint import Endpoint, connect
from tgi.bench.events import Control, Observer, Silent
from tgi.bench.prompts import Counter, LocalCounter, PromptMaker, ServerCounter, prompt_maker
from tgi.bench.results import MachineRoof, Run
from tgi.bench.roof import ModelCost, model_cost
from tgi.bench.run import Bench, Server, Setting
from tgi.bench.screen import Screen
from tgi.bench.streams import CHAT
from tgi.cli.bench_model import tokenizer, weights
from tgi.cli.bench_plan import Destination, Wish, destinations, wish
from tgi.cli.bench_progress import Lines
from tgi.cli.bench_server import serving
from tgi.cli.console import INTERRUPTED, colours, say
from tgi.errors import ConfigError, ModelError, TgiError

_FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class NothingMeasured(TgiError):
    """Not one request succeeded."""


def bench(urls: Sequence[str], values: Mapping[str, Any]) -> int:
    """Measure the servers at `urls`, or one of our own. Returns: the exit code. Raises: TgiError."""
    wanted, places = wish(values), destinations(values["output"], values["as_json"])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(_measure(urls, wanted, values, facts.command(values["command_line"])))
    _write(run, places)
    if run.interrupted:
        return INTERRUPTED
    if not any(step.summary.completed for step in run.steps):
        errors = [trace.message or trace.error for step in run.steps for trace in step.traces if trace.error]
        raise NothingMeasured(f"no request succeeded: {errors[0] if errors else 'none was sent'}",
                              hint="look at the server's log")  # fmt: skip
    return 0


def compare_saved(a: Path, b: Path, values: Mapping[str, Any]) -> int:
    """Compare two results in files. Returns: the exit code. Raises: TgiError, OSError."""
    places = destinations(values["output"], values["as_json"])
    for path in (a, b):
        if not path.is_file():
            raise ConfigError(f"`{path}` does not exist", hint="save a result with `tgi bench ... --output FILE.json`")
    _write(merge(results.read(a), results.read(b)), places)
    return 0


async def _measure(urls: Sequence[str], wanted: Wish, values: Mapping[str, Any], command: str) -> Run:
    here = values["roof"] if values["roof"] is not None else all(machine.is_here(url) for url in urls)
    roof, busy = await _roof(values["remeasure"]) if here else (None, None)
    async with _servers(urls, values) as addresses, open_session(values["timeout"]) as session:
        endpoints = [
            await connect(session, url, protocol=None if values["protocol"] == "auto" else values["protocol"],
                          model=values["model"], api_key=_api_key(values), sampling=wanted.sampling)
            for url in addresses
        ]  # fmt: skip
        paths = [_weights(endpoint, values) for endpoint in endpoints]
        cost, why_not = _cost(paths[0], endpoints[0]) if roof is not None else (None, None)
        notes = [note for note in (busy if cost else None, why_not) if note]
        servers = [
            Server(endpoint=_with_hash(endpoint, path), prompts=await _prompts(session, endpoint, values, wanted.seed))
            for endpoint, path in zip(endpoints, paths, strict=True)
        ]
        parameters = {**wanted.parameters, "Model": wanted.parameters["Model"] or endpoints[0].target.model.id}
        control = Control()
        setting = Setting(
            command=command, seed=wanted.seed, machine=machine.describe(serves=all(map(machine.is_here, addresses))),
            parameters=parameters, loads=wanted.loads, sweep=wanted.sweep, objectives=wanted.objectives,
            warmups=wanted.warmups, rounds=wanted.rounds if len(servers) > 1 else 1, trace=wanted.trace,
            roof=roof, cost=cost, notes=tuple(notes),
        )  # fmt: skip
        with _stopping(control), _watching(values, control) as observer:
            run = await Bench(
                session=session, setting=setting, servers=servers, observer=observer, control=control,
                clock=time.perf_counter,
            ).run()  # fmt: skip
            if isinstance(observer, Screen):
                await observer.left()
    return compare(run) if len(servers) > 1 else run


@asynccontextmanager
async def _servers(urls: Sequence[str], values: Mapping[str, Any]) -> AsyncIterator[Sequence[str]]:
    """The servers that are there, or one that is started."""
    if urls:
        yield urls
        return
    arguments = ["--model-id", values["model_id"], *values["serve_arguments"]]
    if values["revision"] != "main":
        arguments += ["--revision", values["revision"]]
    say("note", f"starting `tgi serve --model-id {values['model_id']}`", colour="36")
    async with serving(arguments) as url:
        yield (url,)


@contextmanager
def _stopping(control: Control) -> Iterator[None]:
    """Ctrl-C once stops the run and keeps what was measured; twice ends the process."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if control.stopped:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        say("note", "stopping; what was measured is kept (Ctrl-C again: now)", colour="36")
        control.stop()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, control.stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)


def _watching(values: Mapping[str, Any], control: Control) -> AbstractContextManager[Observer]:
    """The live screen on a terminal, lines on stderr elsewhere, or nothing."""
    if values["no_progress"]:
        return nullcontext(Silent())
    terminal = next((stream for stream in (sys.stdout, sys.stderr) if stream.isatty()), None)
    if terminal is None or not sys.stdin.isatty() or Console(file=terminal).is_dumb_terminal:
        return nullcontext(Lines())
    return Screen(control, keys=sys.stdin.fileno(), output=terminal.fileno(), colour=colours(terminal))


async def _roof(remeasure: bool) -> tuple[MachineRoof, str | None]:
    cache = platformdirs.user_cache_path("tgi")
    return await asyncio.to_thread(machine.roof, cache, again=remeasure)


def _weights(endpoint: Endpoint, values: Mapping[str, Any]) -> Path | None:
    """The model's files, where the server runs here and they are found."""
    if not machine.is_here(endpoint.base):
        return None
    model = endpoint.target.model
    return weights(values["model_id"] or model.id, model.revision)


def _cost(path: Path | None, endpoint: Endpoint) -> tuple[ModelCost | None, str | None]:
    """What a step of the model costs; the second value says why it is not known."""
    if path is None:
        return None, f"no distance to the hardware limit: the weights of {endpoint.target.model.id} are not found here"
    info = endpoint.info
    try:
        return model_cost(
            path, kv_item_bytes=_FLOAT_BYTES.get((info.model_dtype if info else None) or "", 2),
            step_tokens=info.max_step_tokens if info else None,
        ), None  # fmt: skip
    except (ModelError, OSError) as error:
        return None, f"no distance to the hardware limit: {error}"


def _with_hash(endpoint: Endpoint, path: Path | None) -> Endpoint:
    target = endpoint.target
    if target.model.hash is not None or path is None:
        return endpoint
    model = replace(target.model, hash=facts.model_hash(path))
    return replace(endpoint, target=replace(target, model=model))


async def _prompts(
    session: aiohttp.ClientSession, endpoint: Endpoint, values: Mapping[str, Any], seed: int
) -> PromptMaker:
    server = ServerCounter(session, endpoint)
    counter: Counter = server
    if values["tokenizer_name"]:
        found = await asyncio.to_thread(tokenizer, values["tokenizer_name"], values["revision"])
        counter = LocalCounter(found)
        if endpoint.protocol == CHAT:  # only the server knows what its template adds
            counter = LocalCounter(found, extra=await server.count("the") - await counter.count("the"))
    return await prompt_maker(counter, seed)


def _api_key(values: Mapping[str, Any]) -> str | None:
    if values["api_key_file"]:
        return Path(values["api_key_file"]).read_text(encoding="utf-8").strip()
    key: str | None = values["api_key"]
    return key


def _write(run: Run, places: Sequence[Destination]) -> None:
    for place in places:
        data = _form(run, place.form)
        if place.path is None:
            sys.stdout.write(data)
            sys.stdout.flush()
        else:
            place.path.write_text(data, encoding="utf-8")
            say("note", f"wrote {place.path}", colour="36")


def _form(run: Run, form: str) -> str:
    if form == "html":
        from tgi.bench.html import render  # noqa: PLC0415  (its templates are for those who ask)

        return render(run)
    if form == "json":
        return results.to_json(run).decode() + "\n"
    if form == "jsonl":
        return report.json_lines(run).decode()
    return report.rows_csv(run) if form == "csv" else report.markdown(run)
