"""A benchmark from its first request to its result: step by step, or two servers side by side."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import aiohttp

from tgi.bench import facts, server_metrics
from tgi.bench.client import Clock, Sender
from tgi.bench.endpoint import Endpoint
from tgi.bench.events import Control, Observer, Plan
from tgi.bench.measure import batch_run, summarise, summarise_batches
from tgi.bench.pace import Pacer
from tgi.bench.prompts import PromptMaker
from tgi.bench.results import (
    BatchRun,
    Load,
    Machine,
    MachineRoof,
    Objective,
    Run,
    Sample,
    ServerMetrics,
    Step,
    Trace,
)
from tgi.bench.roof import ModelCost, roofs
from tgi.bench.server_metrics import Exposition
from tgi.bench.sweep import Sweep
from tgi.bench.workload import BATCH, Arrival, JobMaker

SAMPLE_S = 0.25
SCRAPES = 4  # samples from one scrape of the server's gauges to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything about a run that is known before it begins."""

    command: str
    seed: int
    machine: Machine
    parameters: Mapping[str, str]
    loads: tuple[Load, ...] = ()
    sweep: Sweep | None = None  # in the place of loads
    objectives: tuple[Objective, ...] = ()
    warmups: int = 1  # waves of requests before each step
    rounds: int = 1  # of comparisons: parts that each load is cut into
    trace: tuple[Arrival, ...] = ()
    roof: MachineRoof | None = None
    cost: ModelCost | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """One line on what is run, as TGI's screen has it."""
        names = ("Model", "Sequence Length", "Decode Length")
        return " | ".join(f"{name}: {self.parameters[name]}" for name in names if name in self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One of the servers under test, and the prompts made for it."""

    endpoint: Endpoint
    prompts: PromptMaker


@dataclass(slots=True, kw_only=True)
class Bench:
    """Runs a setting against its servers. One server: all steps in turn. Two: each load in alternating rounds."""

    session: aiohttp.ClientSession
    setting: Setting
    servers: Sequence[Server]
    observer: Observer
    control: Control
    clock: Clock
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _steps: list[Step] = field(default_factory=list)

    async def run(self) -> Run:
        """Run everything. Returns: the result, also of a run that was stopped early."""
        setting = self.setting
        started = facts.now()
        targets = tuple(server.endpoint.target for server in self.servers)
        self.observer.run_started(
            Plan(targets=targets, loads=self._planned(), title=setting.title, open_ended=setting.sweep is not None)
        )
        for load in setting.sweep.loads(lambda: self._steps) if setting.sweep else setting.loads:
            if self.control.stopped:
                break
            await self._load(load)
        run = Run(
            started_at=started, command=setting.command, seed=setting.seed, targets=targets, machine=setting.machine,
            versions=facts.versions(), parameters=setting.parameters, steps=tuple(self._steps),
            objectives=setting.objectives, roof=setting.roof, notes=(*setting.notes, *self._notes()),
            interrupted=self.control.stopped,
        )  # fmt: skip
        self.observer.run_finished(run)
        return run

    def _planned(self) -> tuple[Load, ...]:
        return self.setting.sweep.known() if self.setting.sweep else self.setting.loads

    async def _load(self, load: Load) -> None:
        """One load, on every server."""
        first = len(self._steps)
        running = [
            _RunningStep(bench=self, server=server, load=load, index=first + target, target=target)
            for target, server in enumerate(self.servers)
        ]
        for step in running:
            self.observer.step_started(step.index, load, step.target)
        rounds = self.setting.rounds
        for number in range(rounds):
            part = _part(load, number, rounds)
            # Who comes first alternates, so that a machine that grows slower or faster favours nobody.
            for step in running if number % 2 == 0 else reversed(running):
                if not self.control.stopped:
                    await step.part(part, first=number == 0)
        for step in running:
            if step.traces or not self.control.stopped:
                self._steps.append(step.finish())
                self.observer.step_finished(step.index, self._steps[-1])

    def _notes(self) -> list[str]:
        return notes(self._steps)


@dataclass(slots=True, kw_only=True)
class _RunningStep:
    """A step while it runs: one or more parts of a load on one server."""

    bench: Bench
    server: Server
    load: Load
    index: int
    target: int
    started_at: str = field(default_factory=facts.now)
    traces: list[Trace] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    _before: Exposition | None = None
    _after: Exposition | None = None
    _completed: int = 0
    _failed: int = 0
    _tokens: int = 0

    async def part(self, load: Load, *, first: bool) -> None:
        """Send a part of the load; its times go on where those of the part before ended."""
        bench, endpoint = self.bench, self.server.endpoint
        pacer = Pacer(
            sender=Sender(session=bench.session, url=endpoint.route, protocol=endpoint.protocol,
                          headers=endpoint.headers, target=self.target, clock=bench.clock),
            jobs=JobMaker(endpoint, self.server.prompts, load, bench.setting.trace),
            load=load, seed=bench.setting.seed, control=bench.control, numbers=bench._numbers, heard=self._heard,
            trace=bench.setting.trace,
        )  # fmt: skip
        if first:
            await pacer.warm_up(bench.setting.warmups)
            self._before = await self._scrape()
        shift = self.ends[-1] if self.ends else 0.0
        sampler = asyncio.create_task(self._sample(pacer, shift))
        try:
            found = await pacer.run()
        finally:
            sampler.cancel()
            await asyncio.gather(sampler, return_exceptions=True)
        self.traces += [_shifted(trace, shift) for trace in found] if shift else found
        self.ends.append(max((trace.finished_s for trace in self.traces), default=shift))
        self._after = await self._scrape()

    def finish(self) -> Step:
        """The step's figures."""
        traces = tuple(self.traces)
        runs = _batch_runs(self.load, traces)
        step = Step(
            load=self.load, started_at=self.started_at, target=self.target, traces=traces,
            summary=summarise(traces, self.bench.setting.objectives), samples=tuple(self.samples),
            round_ends_s=tuple(self.ends) if len(self.ends) > 1 else (),
            server=server_metrics.between(self._before, self._after)
            if self._before is not None and self._after is not None else ServerMetrics(),
            batch_runs=tuple(runs), batch=summarise_batches(self.load, runs),
        )  # fmt: skip
        cost, roof = self.bench.setting.cost, self.bench.setting.roof
        return step if cost is None or roof is None else replace(step, roofs=roofs(step, cost, roof))

    def _heard(self, trace: Trace) -> None:
        if not trace.warmup:
            self._completed += trace.error is None
            self._failed += trace.error is not None
            self._tokens += trace.output_tokens
        self.bench.observer.request_finished(self.index, trace)

    async def _sample(self, pacer: Pacer, shift: float) -> None:
        """Tell the state of things four times a second, with the server's gauges once a second."""
        begin = self.bench.clock()
        gauges: Mapping[str, float] = {}
        for tick in itertools.count(1):
            await asyncio.sleep(max(0.0, begin + tick * SAMPLE_S - self.bench.clock()))
            if tick % SCRAPES == 1 and self._before is not None:
                scraped = await self._scrape()
                gauges = scraped.gauges if scraped else gauges
            now = pacer.sender.progress
            sample = Sample(
                at_s=shift + self.bench.clock() - begin, in_flight=now.in_flight,
                completed=self._completed, failed=self._failed, output_tokens=self._tokens + now.tokens,
                server=gauges,
            )  # fmt: skip
            self.samples.append(sample)
            self.bench.observer.sample(self.index, sample)

    async def _scrape(self) -> Exposition | None:
        endpoint = self.server.endpoint
        return await server_metrics.scrape(self.bench.session, endpoint.base, endpoint.headers)


def notes(steps: Sequence[Step]) -> list[str]:
    """What a reader of the figures should know."""
    found = []
    for step in steps:
        label, good = step.load.label, [trace for trace in step.traces if trace.error is None]
        if step.summary.failed:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in step.summary.errors.items())
            found.append(f"{label}: {step.summary.failed} of {step.summary.requests} requests failed ({kinds})")
        asked = step.load.prompt_tokens
        if asked and step.load.turns == 1:
            wrong = sum(trace.prompt_tokens != asked for trace in good)
            if wrong:
                seen = next(trace.prompt_tokens for trace in good if trace.prompt_tokens != asked)
                found.append(f"{label}: {wrong} prompts had not {asked} tokens by the server's count, one had {seen}")
        wanted = step.load.output_tokens
        short = sum(trace.output_tokens < wanted for trace in good) if wanted else 0
        if short:
            found.append(f"{label}: {short} answers ended before {wanted} tokens")
        late = step.summary.late_ms
        if late is not None and late.p99 > 20:
            found.append(f"{label}: requests left up to {late.p99:.0f} ms late (p99): the load generator was too slow")
    return found


def _part(load: Load, number: int, rounds: int) -> Load:
    """One of the parts that a load is cut into; their requests, runs and seconds add up to the whole."""
    if rounds == 1:
        return load

    def share(whole: int) -> int:
        return whole * (number + 1) // rounds - whole * number // rounds

    return replace(
        load,
        requests=None if load.requests is None else share(load.requests),
        duration_s=None if load.duration_s is None else load.duration_s / rounds,
        runs=share(load.runs),
    )


def _shifted(trace: Trace, by: float) -> Trace:
    return replace(
        trace, scheduled_s=trace.scheduled_s + by, sent_s=trace.sent_s + by, finished_s=trace.finished_s + by,
        token_times_s=tuple([moment + by for moment in trace.token_times_s]),
    )  # fmt: skip


def _batch_runs(load: Load, traces: Sequence[Trace]) -> list[BatchRun]:
    """The runs of TGI's method that went well: requests of one run were all due at one moment."""
    if load.kind != BATCH:
        return []
    waves: dict[float, list[Trace]] = {}
    for trace in traces:
        waves.setdefault(trace.scheduled_s, []).append(trace)
    size = load.concurrency or 1
    return [run for wave in waves.values() if len(wave) == size and (run := batch_run(wave)) is not None]
