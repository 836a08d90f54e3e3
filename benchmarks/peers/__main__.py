"""Measures tgi, llama.cpp's server and OpenVINO GenAI side by side, and writes the table of ratios.

    python -m benchmarks.peers --work DIR                      everything; about 25 minutes on two cores
    python -m benchmarks.peers --work DIR --quick              a try of the machinery; its figures mean nothing
    python -m benchmarks.peers --work DIR --programs "tgi Q4_1,llama Q4_1" --loads one,32

The first run installs the peers and makes the model files, once, in DIR. Then all programs run, and every load goes
round all of them before the next one begins, several rounds: what disturbs the machine disturbs them alike. Raw samples
go to benchmarks/results/<date>-peers.json, the table to the README between its markers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from benchmarks.peers import environments, table
from benchmarks.peers.environments import Environments, Missing, run
from benchmarks.peers.loads import LOADS, OURS_ONLY, QUICK, Figures, Prompts, Sizes
from benchmarks.peers.models import Models
from benchmarks.peers.programs import Llama, OpenVino, Ours
from tgi.bench import machine, roof

WINDOW = 256  # tokens of text scored at once
console = Console(stderr=True)


class Bench:
    """One run: which programs, which loads, and what came of them."""

    def __init__(self, options: argparse.Namespace, original: Path) -> None:
        self.options = options
        self.given_work = options.given_work  # a path of one machine means nothing on another
        self.sizes = QUICK if options.quick else Sizes()
        self.environments = Environments(options.work, console.print)
        self.models = Models(self.environments, original)
        self.logs = options.work / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.missing: dict[str, str] = {}
        self.rounds: list[dict[str, Any]] = []
        self.makers: dict[str, Callable[[Path], Any]] = {}
        self.ids = text_ids(self.models.safetensors() / "tokenizer.json")
        self.prompts = Prompts(self.ids)

    def prepare(self, names: Sequence[str]) -> None:
        """Install and make what the programs need; what cannot be had is noted as missing."""
        for name in names:
            try:
                self.makers[name] = self._maker(name)
            except Missing as error:
                self.lack(name, error)

    def _maker(self, name: str) -> Callable[[Path], Any]:
        kind, _, mode = name.partition(" ")
        if kind == "llama":
            programs, model = self.environments.llama(), self.models.gguf(mode)
            return lambda log: Llama(programs, model, log)
        if kind == "OpenVINO":
            python, folder = self.environments.openvino(), self.models.openvino(mode)
            return lambda log: OpenVino(python, folder, log)
        model, flags = self.our_model(name), ("--quantize", "int8") if name.endswith("int8") else ()
        return lambda log: Ours(model, flags, log)

    def our_model(self, name: str) -> Path:
        """The model file of one of our modes."""
        weights = name.split()[1]  # "tgi Q4_1 int8": these weights, multiplied in 8 bits
        return self.models.safetensors() if weights in ("f16", "int8") else self.models.gguf(weights)

    def lack(self, name: str, reason: object) -> None:
        """Note that a program could not be measured."""
        console.print(f"[bold]{name} is missing[/]: {reason}", highlight=False)
        self.missing.setdefault(name, str(reason))

    def note(self, number: int, name: str, load: str, figures: Figures) -> None:
        """Keep what a load gave."""
        self.rounds.append({"round": number, "program": name, "load": load, "figures": figures})

    async def start(self, name: str) -> tuple[Any, float]:
        """A program that has given its first token, and the seconds that took. Raises: Missing."""
        begin = time.perf_counter()
        program = self.makers[name](self.logs / f"{name.replace(' ', '-')}.log")
        try:
            await program.first_token(self.prompts.next(16))
        except BaseException:
            program.stop()
            raise
        return program, time.perf_counter() - begin

    async def measure(self, loads: Sequence[str]) -> None:
        """All rounds over all programs."""
        programs: dict[str, Any] = {}
        steps = len(self.makers) * (1 + self.options.rounds * len(loads))
        columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn())  # fmt: skip
        try:
            with Progress(*columns, console=console) as progress:
                task = progress.add_task("starting", total=steps)
                for name in self.makers:
                    progress.update(task, description=f"{name}: start")
                    try:
                        programs[name], _ = await self.start(name)
                        await programs[name].generate([])
                    except (Missing, OSError) as error:
                        self.lack(name, error)
                    progress.advance(task)
                for number in range(self.options.rounds):
                    for load in loads:
                        for name, program in programs.items():
                            progress.update(task, description=f"round {number + 1}: {load}, {name}")
                            await self._once(number, name, program, load)
                            progress.advance(task)
        finally:
            for program in programs.values():
                program.stop()

    async def starts(self) -> None:
        """How long a program takes to its first token, and what 32 streams then take of memory.

        No other one is in memory, and this one has served nothing: what a server keeps of old prompts does not count.
        """
        for number in range(self.options.rounds):
            for name in self.makers:
                if number and name not in table.DEFAULT:
                    continue
                console.print(f"round {number + 1}: start, {name}", highlight=False)
                try:
                    program, start_s = await self.start(name)
                    try:
                        found = await LOADS["32"](program, self.prompts, self.sizes)
                    finally:
                        program.stop()
                except (Missing, OSError, RuntimeError) as error:
                    self.lack(f"{name}, start", error)
                else:
                    self.note(number, name, "start", {"start_s": start_s, "rss_fresh_mib": found["rss_32_mib"]})

    async def _once(self, number: int, name: str, program: Any, load: str) -> None:
        if load in OURS_ONLY and not name.startswith("tgi"):
            return
        try:
            figures = await LOADS[load](program, self.prompts, self.sizes)
        except Exception as error:  # one program's failure is a line of the table, not the end of the others
            self.lack(f"{name}, {load}", error)
            return
        # What int8 reads is made at load: its file does not say how much that is.
        if load == "one" and name.startswith("tgi") and name != "tgi int8":
            figures |= self._roof(name, figures["decode_1"])
        self.note(number, name, load, figures)

    def _roof(self, name: str, rate: float) -> Figures:
        """The share of what memory allows, and of what it allows with the last cache, as `tgi bench` says it.

        Measured beside each figure: how much of a cache that others share is ours changes from minute to minute.
        """
        limits, doubt = machine.roof(self.options.work, again=True)
        if doubt:
            self.missing.setdefault("the memory roof", doubt)
        cost = roof.model_cost(self.our_model(name))
        context = self.sizes.prompt + self.sizes.new_tokens / 2
        found = {}
        uncached = dataclasses.replace(limits, caches=())
        for figure, machine_roof in (("roof_percent", uncached), ("cached_roof_percent", limits)):
            limit = roof.roof_decode(cost, machine_roof, sequences=1, context=context)
            found[figure] = 100 * rate / limit.roof_tokens_per_s
        return found

    async def quality(self) -> None:
        """The change of NLL of each of our modes against float32 arithmetic on the weights of its file."""
        windows = [self.ids[start : start + WINDOW] for start in range(0, len(self.ids) - WINDOW + 1, WINDOW)]
        ids = self.options.work / "windows.json"
        ids.write_text(json.dumps(windows))
        for name in [name for name in self.makers if name.startswith("tgi")]:
            console.print(f"quality of {name}")
            try:
                reference = self._reference(self.our_model(name), ids)
                program, _ = await self.start(name)
                try:
                    ours = [await program.logprobs(window) for window in windows]
                finally:
                    program.stop()
            except Exception as error:
                self.lack(f"{name}, quality", error)
                continue
            nll, wanted = (-sum(map(sum, found)) / sum(map(len, found)) for found in (ours, reference))
            self.note(0, name, "quality", {"nll": nll, "nll_float32": wanted, "nll_change": nll - wanted})

    def _reference(self, model: Path, ids: Path) -> list[list[float]]:
        out = self.options.work / f"nll-{model.name}.json"
        if not out.exists():
            script = str(Path(__file__).with_name("nll_reference.py"))
            run([str(self.environments.converter()), script, str(model), str(ids), str(out)])
        found: list[list[float]] = json.loads(out.read_text())
        return found

    def raw(self) -> dict[str, Any]:
        """What is written: enough to make every table again."""
        facts = machine.describe(serves=True)
        return {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": f"{facts.cpu}, {facts.cores} cores, {facts.memory_bytes >> 30} GiB, {facts.system}",
            "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]).replace(self.given_work, "DIR"),
            "num_rounds": self.options.rounds,
            "sizes": dataclasses.asdict(self.sizes),
            "versions": versions(),
            "missing": self.missing,
            "rounds": self.rounds,
        }


def text_ids(tokenizer: Path) -> list[int]:
    """The token ids of our text."""
    text = Path(__file__).with_name("alice.txt").read_text(encoding="utf-8")
    ids: list[int] = Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids
    return ids


def versions() -> dict[str, str]:
    """Of all that is measured."""
    pinned = (environments.LLAMA, *environments.OPENVINO[:2], environments.CONVERTER_ALONE[0])
    peers = dict(requirement.split("==") for requirement in pinned)
    return {"tgi": tgi_version(), "torch": importlib.metadata.version("torch"), **peers}


def tgi_version() -> str:
    """Our version with its commit."""
    with contextlib.suppress(Missing):
        return run(["git", "describe", "--always", "--dirty"]).strip()
    return "unknown"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    everyone = (*table.OURS, *table.PEERS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="keeps installed peers and models")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--quick", action="store_true", help="tiny loads, to try the machinery")
    parser.add_argument("--programs", default=",".join(everyone), help=f"of: {', '.join(everyone)}")
    parser.add_argument("--loads", default=",".join(LOADS), help=f"of: {', '.join(LOADS)}")
    parser.add_argument("--no-quality", action="store_true", help="leave the NLL out")
    parser.add_argument("--install-only", action="store_true", help="install the peers, make the models, and end")
    parser.add_argument("--output", type=Path, help="raw samples; default: benchmarks/results/<date>-peers.json")
    parser.add_argument("--readme", type=Path, help="page whose figures are replaced; default: none")
    options = parser.parse_args(arguments)
    for name, known in (("programs", everyone), ("loads", tuple(LOADS))):
        given = [word.strip() for word in getattr(options, name).split(",") if word.strip()]
        unknown = [word for word in given if word not in known]
        if unknown:
            parser.error(f"--{name}: `{unknown[0]}` is not one of {', '.join(known)}")
        setattr(options, name, given)
    if options.rounds < 1:
        parser.error(f"--rounds must be >= 1. Given: {options.rounds}")
    options.given_work = str(options.work)
    options.work = options.work.resolve()
    return options


def main() -> None:
    """Install, measure, write."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run([sys.executable, "-m", "tgi", "download"], stdout=subprocess.PIPE, text=True, check=True)
    original = Path(fetched.stdout.strip())
    bench = Bench(options, original)
    bench.prepare(options.programs)
    if options.install_only:
        raise SystemExit(1 if bench.missing else 0)
    output = options.output or table.RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-peers.json"
    try:
        asyncio.run(bench.measure(options.loads))
        asyncio.run(bench.starts())
        if not options.no_quality:
            asyncio.run(bench.quality())
    finally:  # what was measured before an interruption is worth keeping
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(bench.raw(), indent=1) + "\n", encoding="utf-8")
    raw = json.loads(output.read_text(encoding="utf-8"))
    print(table.programs_table(raw), table.render(raw), sep="\n\n")
    if options.readme:
        table.put(options.readme, table.render(raw))
    console.print(f"raw samples: {output}")


if __name__ == "__main__":
    main()
