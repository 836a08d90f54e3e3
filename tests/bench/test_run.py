"""Whole benchmarks against small servers."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.bench import example_results
from tests.bench.fake_server import FakeServer, serve
from tgi.bench.client import open_session
from tgi.bench.endpoint import connect
from tgi.bench.events import Control, Plan, Silent
from tgi.bench.prompts import ServerCounter, prompt_maker
from tgi.bench.results import Load, Run, Sample, Step, Trace
from tgi.bench.run import Bench, Server, Setting, notes
from tgi.bench.sweep import Sweep
from tgi.bench.workload import Arrival

CLOSED = Load(kind="concurrency", label="2 streams", concurrency=2, requests=6, prompt_tokens=9, output_tokens=4)
SETTING = Setting(command="tgi bench", seed=1, machine=example_results.MACHINE, parameters={"Model": "m"})


class Diary(Silent):
    """Writes down what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def run_started(self, plan: Plan) -> None:
        self.lines.append(f"run of {len(plan.loads)}")

    def step_started(self, step: int, load: Load, target: int) -> None:
        self.lines.append(f"step {step} {load.label} {target}")

    def request_finished(self, step: int, trace: Trace) -> None:
        self.lines.append("warm-up" if trace.warmup else f"request {step}")

    def sample(self, step: int, sample: Sample) -> None:
        """When there are samples is up to the clock."""

    def step_finished(self, step: int, result: Step) -> None:
        self.lines.append(f"end {step}")

    def run_finished(self, run: Run) -> None:
        self.lines.append("run over")


async def bench(
    *servers: FakeServer, setting: Setting, diary: Diary | None = None, control: Control | None = None
) -> Run:
    async with open_session(10.0) as session, serve(servers[0]) as first, serve(servers[-1]) as last:
        found = []
        for url in (first, last)[: len(servers)]:
            endpoint = await connect(session, url)
            found.append(Server(endpoint=endpoint, prompts=await prompt_maker(ServerCounter(session, endpoint), 1)))
        for server in servers:
            server.bodies.clear()
            server.most_at_once = 0
        return await Bench(
            session=session, setting=setting, servers=found, observer=diary or Diary(), control=control or Control(),
            clock=time.perf_counter,
        ).run()  # fmt: skip


async def test_a_run_holds_every_step_with_its_requests_and_the_servers_view() -> None:
    server = FakeServer()
    run = await bench(server, setting=replace(SETTING, loads=(CLOSED, replace(CLOSED, label="x", concurrency=1))))
    assert [step.load.label for step in run.steps] == ["2 streams", "x"]
    first = run.steps[0]
    assert (first.summary.completed, first.summary.failed, len(first.traces)) == (6, 0, 6)
    assert all((trace.prompt_tokens, trace.output_tokens) == (9, 4) for trace in first.traces)
    assert first.server.counters == {"tgi_request_count": 6}
    assert first.server.means == {"tgi_request_duration": pytest.approx(0.05)}
    assert run.targets[0].model.id == "fake/model"
    assert server.most_at_once <= 2


async def test_no_two_prompts_of_a_run_are_the_same_warming_up_included() -> None:
    server = FakeServer()
    await bench(server, setting=replace(SETTING, loads=(CLOSED, CLOSED), warmups=2))
    prompts = [body["inputs"] for body in server.bodies]
    assert len(prompts) == len(set(prompts)) == 2 * (6 + 2 * 2)


async def test_an_observer_hears_everything_in_order() -> None:
    diary = Diary()
    await bench(FakeServer(), setting=replace(SETTING, loads=(replace(CLOSED, requests=2),)), diary=diary)
    assert diary.lines == [
        "run of 1", "step 0 2 streams 0", "warm-up", "warm-up", "request 0", "request 0", "end 0", "run over"
    ]  # fmt: skip


async def test_tgis_method_has_its_runs() -> None:
    load = Load(kind="batch", label="Batch: 3", concurrency=3, requests=12, runs=4, prompt_tokens=10, output_tokens=8)
    step = (await bench(FakeServer(), setting=replace(SETTING, loads=(load,)))).steps[0]
    assert len(step.batch_runs) == 4
    assert step.batch is not None
    assert step.batch.prefill_ms.count == 4


async def test_a_run_of_a_batch_with_a_failure_does_not_count() -> None:
    load = Load(kind="batch", label="Batch: 3", concurrency=3, requests=6, runs=2, prompt_tokens=10, output_tokens=8)
    step = (
        await bench(FakeServer(failures={4: "incomplete"}), setting=replace(SETTING, loads=(load,), warmups=0))
    ).steps[0]
    assert len(step.batch_runs) == 1
    assert step.summary.errors == {"incomplete": 1}


async def test_failures_are_noted() -> None:
    run = await bench(FakeServer(failures={3: "429"}), setting=replace(SETTING, loads=(CLOSED,)))
    assert run.steps[0].summary.errors == {"http_429": 1}
    assert run.notes == ("2 streams: 1 of 6 requests failed (1 x http_429)",)


async def test_two_servers_take_turns_under_the_same_load() -> None:
    diary = Diary()
    a, b = FakeServer(), FakeServer()
    run = await bench(a, b, setting=replace(SETTING, loads=(CLOSED,), rounds=3, warmups=0), diary=diary)
    assert [step.target for step in run.steps] == [0, 1]
    assert [line for line in diary.lines if line.startswith("request")] == [
        f"request {step}" for step in (0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1)
    ]
    for step in run.steps:
        assert step.summary.completed == 6
        assert len(step.round_ends_s) == 3
        assert step.round_ends_s[-1] == max(trace.finished_s for trace in step.traces)
    assert len(a.bodies) == len(b.bodies) == 6


async def test_rounds_follow_one_another_without_the_pauses_between_them() -> None:
    run = await bench(FakeServer(), FakeServer(), setting=replace(SETTING, loads=(CLOSED,), rounds=3, warmups=0))
    ends = run.steps[0].round_ends_s
    starts = sorted(trace.sent_s for trace in run.steps[0].traces)
    assert starts[1] <= ends[0] <= starts[2] <= ends[1]


async def test_a_sweep_goes_on_until_it_is_saturated() -> None:
    sweep = Sweep(prompt_tokens=9, output_tokens=2, requests=8, most_streams=2)
    run = await bench(FakeServer(), setting=replace(SETTING, sweep=sweep))
    assert [step.load.concurrency for step in run.steps][:2] == [1, 2]
    assert [step.load.kind for step in run.steps][-4:] == ["poisson"] * 4


async def test_a_trace_is_replayed() -> None:
    trace = tuple(Arrival(at_s=0.0, prompt_tokens=tokens, output_tokens=2) for tokens in (5, 6, 7))
    load = Load(kind="replay", label="replay", requests=3)
    run = await bench(FakeServer(), setting=replace(SETTING, loads=(load,), trace=trace))
    assert sorted(found.prompt_tokens for found in run.steps[0].traces) == [5, 6, 7]


async def test_a_stopped_run_keeps_what_was_measured() -> None:
    control = Control()

    class Impatient(Diary):
        def step_finished(self, step: int, result: Step) -> None:
            control.stop()

    run = await bench(
        FakeServer(), setting=replace(SETTING, loads=(CLOSED, CLOSED)), diary=Impatient(), control=control
    )
    assert run.interrupted
    assert len(run.steps) == 1


def test_prompts_and_answers_of_other_lengths_and_a_late_generator_are_noted() -> None:
    step = example_results.step(1)
    step = replace(step, load=replace(step.load, prompt_tokens=100, output_tokens=33))
    late = step.summary.late_ms
    assert late is not None
    step = replace(step, summary=replace(step.summary, late_ms=replace(late, p99=50.0)))
    text = "\n".join(notes([step]))
    assert "38 prompts had not 100 tokens by the server's count, one had 128" in text
    assert "38 answers ended before 33 tokens" in text
    assert "50 ms late" in text
