"""Results of benchmarks that never ran: fixed figures for the tests of tables, pages and screens."""

from __future__ import annotations

import random

from tgi.bench.events import Observer, Plan
from tgi.bench.measure import batch_run, summarise, summarise_batches
from tgi.bench.results import (
    BatchRun,
    Load,
    Machine,
    MachineRoof,
    Model,
    Objective,
    PhaseRoof,
    Run,
    Sample,
    ServerMetrics,
    Step,
    Target,
    Trace,
)  # fmt: skip

MODEL = Model(
    id="HuggingFaceTB/SmolLM2-135M-Instruct", revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    hash="sha256:" + "5a" * 32, dtype="q4_1", device="cpu",
)  # fmt: skip
TARGET = Target(url="http://127.0.0.1:3000", protocol="tgi", server="tgi 4.0.0", model=MODEL)
MACHINE = Machine(cpu="AMD EPYC-Milan", cores=2, memory_bytes=24 * 2**30, system="Linux 6.1", serves=True)
PARAMETERS = {
    "Model": MODEL.id, "Sequence Length": "10", "Decode Length": "8", "Top N Tokens": "0", "N Runs": "10",
    "Warmups": "1", "Temperature": "None", "Top K": "None", "Top P": "None", "Typical P": "None",
    "Repetition Penalty": "None", "Frequency Penalty": "None", "Watermark": "false", "Do Sample": "false",
}  # fmt: skip
OBJECTIVES = (Objective(metric="ttft", milliseconds=500.0), Objective(metric="itl", milliseconds=50.0))


def traces(streams: int, *, requests: int = 40, seed: int = 0, failures: int = 2) -> tuple[Trace, ...]:
    """Requests of a closed loop of `streams`, the last `failures` of them failed."""
    chance = random.Random(seed * 1000 + streams)
    free_s = [0.0] * streams
    found = []
    for number in range(requests):
        stream = min(range(streams), key=lambda index: free_s[index])
        sent = free_s[stream]
        moment = sent + 0.04 + 0.02 * streams * chance.uniform(0.8, 1.6)
        times = [moment]
        for _ in range(31):
            moment += (0.008 + 0.001 * streams) * chance.uniform(0.8, 1.4)
            times.append(moment)
        failed = number >= requests - failures
        found.append(Trace(
            number=number, scheduled_s=sent, sent_s=sent + 0.0002, finished_s=moment + 0.0005,
            token_times_s=tuple(times[:3] if failed else times), prompt_tokens=128, output_tokens=3 if failed else 32,
            error=("http_429", "incomplete")[number % 2] if failed else None,
            message=("Model is overloaded", "the stream ended without its last event")[number % 2] if failed else None,
        ))  # fmt: skip
        free_s[stream] = moment + 0.0005
    return tuple(found)


def samples(found: tuple[Trace, ...]) -> tuple[Sample, ...]:
    """The state four times a second."""
    end = max(trace.finished_s for trace in found)
    return tuple(
        Sample(
            at_s=at,
            in_flight=sum(trace.sent_s <= at < trace.finished_s for trace in found),
            completed=sum(trace.finished_s <= at and trace.error is None for trace in found),
            failed=sum(trace.finished_s <= at and trace.error is not None for trace in found),
            output_tokens=sum(moment <= at for trace in found for moment in trace.token_times_s),
            server={"tgi_queue_size": 0.0, "tgi_batch_current_size": float(min(8, len(found)))},
        )
        for at in (0.25 * tick for tick in range(1, int(end / 0.25) + 1))
    )


def step(streams: int, *, target: int = 0) -> Step:
    """A step of a closed loop."""
    found = traces(streams, seed=target)
    load = Load(
        kind="concurrency", label=f"{streams} streams" if streams > 1 else "1 stream", concurrency=streams,
        requests=len(found), prompt_tokens=128, output_tokens=32,
    )  # fmt: skip
    return Step(
        load=load, started_at="2026-11-22T12:00:00Z", target=target, summary=summarise(found, OBJECTIVES),
        traces=found, samples=samples(found),
        server=ServerMetrics(
            counters={"tgi_request_count": float(len(found)), "tgi_request_success": float(len(found) - 2)},
            means={"tgi_request_queue_duration": 0.0011, "tgi_request_inference_duration": 0.41},
            p50={"tgi_request_queue_duration": 0.0008}, p99={"tgi_request_queue_duration": 0.004},
        ),
        roofs=(
            PhaseRoof(phase="prefill", tokens_per_s=2100.0, roof_tokens_per_s=3000.0, percent=70.0, bound="compute",
                      bytes_per_token=0.7e6, operations_per_token=213e6, batch=128.0),
            PhaseRoof(phase="decode", tokens_per_s=100.0 * streams**0.5, roof_tokens_per_s=306.0 * streams**0.5,
                      percent=32.7, bound="memory", bytes_per_token=90e6 / streams, operations_per_token=270e6,
                      batch=float(streams)),
        ),
    )  # fmt: skip


def batch_step(size: int) -> Step:
    """A step of TGI's method: ten runs of a batch."""
    load = Load(
        kind="batch", label=f"Batch: {size}", concurrency=size, requests=10 * size, prompt_tokens=10, output_tokens=8,
        runs=10,
    )  # fmt: skip
    rounds = [traces(size, requests=size, seed=run, failures=0) for run in range(10)]
    runs: list[BatchRun] = [run for run in (batch_run(found) for found in rounds) if run is not None]
    found = tuple(trace for round_of in rounds for trace in round_of)
    return Step(
        load=load, started_at="2026-11-22T12:00:00Z", summary=summarise(found), traces=found, samples=samples(found),
        batch_runs=tuple(runs), batch=summarise_batches(load, runs),
    )  # fmt: skip


def run(steps: tuple[Step, ...] = (), *, targets: tuple[Target, ...] = (TARGET,)) -> Run:
    """A run of the steps; by default 1, 2, 4 and 8 streams."""
    return Run(
        started_at="2026-11-22T12:00:00Z",
        command="tgi bench http://127.0.0.1:3000 --concurrency 1,2,4,8 --slo ttft=500ms,itl=50ms",
        seed=0, targets=targets, machine=MACHINE, versions={"tgi": "4.0.0", "python": "3.11.9", "aiohttp": "3.14.1"},
        parameters=PARAMETERS, steps=steps or tuple(step(streams) for streams in (1, 2, 4, 8)), objectives=OBJECTIVES,
        roof=MachineRoof(bandwidth=28e9, float32_rate=185e9, integer_rate=387e9, measured_at="2026-11-22T11:00:00Z"),
        notes=("2 of 40 requests failed at 8 streams",),
    )  # fmt: skip


def preset_run() -> Run:
    """A run of TGI's method at batches of 1, 2, 4 and 8."""
    return run(tuple(batch_step(size) for size in (1, 2, 4, 8)))


def play(observer: Observer, shown: Run | None = None) -> Run:
    """Tell an observer of a run as if it happened now, in order of time within each step."""
    shown = shown or run()
    loads = tuple(step.load for step in shown.steps)
    observer.run_started(Plan(targets=shown.targets, loads=loads, title=f"Model: {MODEL.id} | Sequence Length: 128"))
    for index, done in enumerate(shown.steps):
        observer.step_started(index, done.load, done.target)
        waiting = sorted(done.traces, key=lambda trace: trace.finished_s)
        for sample in done.samples:
            while waiting and waiting[0].finished_s <= sample.at_s:
                observer.request_finished(index, waiting.pop(0))
            observer.sample(index, sample)
        for trace in waiting:
            observer.request_finished(index, trace)
        observer.step_finished(index, done)
    observer.run_finished(shown)
    return shown
