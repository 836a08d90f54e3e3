"""Loads in virtual time, against a server that takes a second for each request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tests.bench import virtual_time
from tgi.bench.client import Answer, Job, Progress
from tgi.bench.events import Control
from tgi.bench.pace import Pacer
from tgi.bench.results import Load, Trace
from tgi.bench.workload import Arrival

SERVICE_S = 1.0


@dataclass
class FakeSender:
    """Takes a second for each request, as many at once as are sent."""

    fails: int | None = None
    progress: Progress = field(default_factory=Progress)
    most_at_once: int = 0

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def send(self, job: Job, *, origin: float, scheduled: float, keep_text: bool = False) -> Answer:
        sent = self.clock()
        self.progress.in_flight += 1
        self.most_at_once = max(self.most_at_once, self.progress.in_flight)
        try:
            await asyncio.sleep(SERVICE_S)
        finally:
            self.progress.in_flight -= 1
        error = "http_500" if job.number == self.fails else None
        trace = Trace(
            number=job.number, scheduled_s=scheduled - origin, sent_s=sent - origin,
            finished_s=self.clock() - origin, turn=job.turn, warmup=job.warmup, error=error,
        )  # fmt: skip
        return Answer(trace, f"answer {job.number}")


@dataclass
class FakeJobs:
    """Jobs without prompts; remembers what each conversation had before it."""

    histories: list[list[tuple[str, str]]] = field(default_factory=list)

    async def make(self, number: int, *, index: int = 0, warmup: bool = False) -> Job:
        return Job(number=number, body=b"", prompt_tokens=1, output_tokens=1, warmup=warmup)

    async def turn(self, number: int, turn: int, history: Sequence[tuple[str, str]]) -> tuple[Job, str]:
        self.histories.append(list(history))
        return Job(number=number, body=b"", prompt_tokens=1, output_tokens=1, turn=turn), f"question {number}"


def pace(
    load: Load, *, sender: FakeSender | None = None, jobs: FakeJobs | None = None, trace: tuple[Arrival, ...] = (),
    stop_at_s: float | None = None, warmups: int = 0,
) -> tuple[Trace, ...]:  # fmt: skip
    async def work() -> tuple[Trace, ...]:
        control = Control()
        pacer = Pacer(
            sender=sender or FakeSender(), jobs=jobs or FakeJobs(), load=load, seed=1, control=control,  # type: ignore[arg-type]
            numbers=itertools.count(), trace=trace,
        )  # fmt: skip
        if stop_at_s is not None:
            asyncio.get_running_loop().call_later(stop_at_s, control.stop)
        await pacer.warm_up(warmups)
        return await pacer.run()

    return virtual_time.run(work())


def test_a_closed_loop_keeps_its_streams_busy_and_sends_what_was_asked() -> None:
    sender = FakeSender()
    traces = pace(Load(kind="concurrency", label="x", concurrency=3, requests=9), sender=sender)
    assert sender.most_at_once == 3
    assert [trace.finished_s for trace in traces] == pytest.approx([1.0] * 3 + [2.0] * 3 + [3.0] * 3)
    assert sorted(trace.number for trace in traces) == list(range(9))


def test_a_closed_loop_of_a_length_sends_nothing_after_it_and_waits_for_answers() -> None:
    traces = pace(Load(kind="concurrency", label="x", concurrency=2, duration_s=2.5))
    assert max(trace.sent_s for trace in traces) < 2.5
    assert max(trace.finished_s for trace in traces) == pytest.approx(3.0)
    assert len(traces) == 6


def test_an_open_loop_does_not_wait_for_answers() -> None:
    sender = FakeSender()
    traces = pace(Load(kind="constant", label="x", rate=10.0, requests=20), sender=sender)
    assert [trace.scheduled_s for trace in traces] == pytest.approx([n / 10 for n in range(20)])
    assert [trace.sent_s for trace in traces] == pytest.approx([trace.scheduled_s for trace in traces])
    assert sender.most_at_once in (10, 11)  # the eleventh is due when the first is answered


def test_a_trace_is_replayed_at_its_times() -> None:
    trace = tuple(Arrival(at_s=at, prompt_tokens=1, output_tokens=1) for at in (0.0, 0.25, 4.0))
    assert [found.sent_s for found in pace(Load(kind="replay", label="x"), trace=trace)] == pytest.approx([0, 0.25, 4])


@pytest.mark.parametrize("kind", ["batch", "burst"])
def test_a_burst_is_sent_at_once_and_the_next_when_it_is_answered(kind: str) -> None:
    sender = FakeSender()
    traces = pace(Load(kind=kind, label="x", concurrency=4, runs=3), sender=sender)
    assert sender.most_at_once == 4
    assert sorted(trace.scheduled_s for trace in traces) == pytest.approx([0.0] * 4 + [1.0] * 4 + [2.0] * 4)


def test_a_turn_has_all_earlier_ones_before_it() -> None:
    jobs = FakeJobs()
    traces = pace(Load(kind="multi_turn", label="x", concurrency=1, requests=6, turns=3), jobs=jobs)
    assert [trace.turn for trace in traces] == [0, 1, 2, 0, 1, 2]
    assert jobs.histories[:3] == [
        [], [("question 0", "answer 0")], [("question 0", "answer 0"), ("question 1", "answer 1")]
    ]  # fmt: skip
    assert jobs.histories[3] == []


def test_a_conversation_ends_where_a_turn_fails() -> None:
    traces = pace(Load(kind="multi_turn", label="x", concurrency=1, requests=6, turns=3), sender=FakeSender(fails=1))
    assert [(trace.turn, trace.error) for trace in traces] == [
        (0, None), (1, "http_500"), (0, None), (1, None), (2, None)
    ]  # fmt: skip


def test_warming_up_sends_as_many_at_once_as_the_load_and_leaves_no_trace() -> None:
    sender = FakeSender()
    traces = pace(Load(kind="concurrency", label="x", concurrency=3, requests=3), sender=sender, warmups=2)
    assert sender.most_at_once == 3
    assert [trace.number for trace in traces] == [6, 7, 8]
    assert not any(trace.warmup for trace in traces)


@pytest.mark.parametrize(
    "load",
    [
        Load(kind="concurrency", label="x", concurrency=2),
        Load(kind="constant", label="x", rate=1.0, requests=50),
        Load(kind="batch", label="x", concurrency=2, runs=50),
    ],
)
def test_stopping_cuts_off_what_is_under_way_and_keeps_the_rest(load: Load) -> None:
    traces = pace(load, stop_at_s=2.5)
    assert traces
    assert all(trace.finished_s <= 2.5 for trace in traces)
