"""Sends requests in the rhythm of a load: closed loops wait for answers, open loops for the clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tgi.bench.client import Job, Sender
from tgi.bench.events import Control
from tgi.bench.results import Load, Trace
from tgi.bench.workload import BATCH, BURST, CONSTANT, POISSON, REPLAY, Arrival, JobMaker, moments

PREPARED = 5000  # requests written before a closed loop begins, at most

Heard = Callable[[Trace], None]


@dataclass(slots=True, kw_only=True)
class Pacer:
    """Runs one load against one endpoint.

    `numbers` gives every request its number, so that no two of a run have the same prompt. Times in traces count from
    the moment `run` was called. Requests cut off by `control` leave no trace.
    """

    sender: Sender
    jobs: JobMaker
    load: Load
    seed: int
    control: Control
    numbers: Iterator[int] = field(default_factory=itertools.count)
    heard: Heard = lambda trace: None
    trace: Sequence[Arrival] = ()
    _found: list[Trace] = field(default_factory=list)
    _origin: float = 0.0
    _left: Iterator[int] = field(default_factory=itertools.count)

    async def warm_up(self, count: int) -> None:
        """Send requests like those of the load that will not count, as many at once as it has at most."""
        for _ in range(count):
            wave = max(1, self.load.concurrency or 1)
            jobs = [await self.jobs.make(next(self.numbers), warmup=True) for _ in range(wave)]
            self._origin = self.sender.clock()
            await self._all([self._send(job, self._origin) for job in jobs])
        self._found.clear()

    async def run(self) -> tuple[Trace, ...]:
        """Send everything and wait for the last answer. Returns: the traces in order of their ends."""
        self._found.clear()
        kind = self.load.kind
        if kind in (CONSTANT, POISSON, REPLAY):
            await self._open_loop()
        elif kind in (BURST, BATCH):
            await self._waves()
        else:
            await self._closed_loop()
        return tuple(self._found)

    async def _open_loop(self) -> None:
        due = [arrival.at_s for arrival in self.trace] if self.trace else moments(self.load, self.seed)
        jobs = [await self.jobs.make(next(self.numbers), index=index) for index in range(len(due))]
        self._origin = self.sender.clock()
        await self._all([self._later(job, self._origin + at) for job, at in zip(jobs, due, strict=True)])

    async def _later(self, job: Job, due: float) -> None:
        wait = due - self.sender.clock()
        if wait > 0:
            await asyncio.sleep(wait)
        await self._send(job, due)

    async def _waves(self) -> None:
        """Bursts one after another, each when the one before has been answered; TGI's batches are such bursts."""
        size = self.load.concurrency or 1
        jobs = [[await self.jobs.make(next(self.numbers)) for _ in range(size)] for _ in range(max(1, self.load.runs))]
        self._origin = self.sender.clock()
        for wave in jobs:
            if self.control.stopped:
                return
            due = self.sender.clock()
            await self._all([self._send(job, due) for job in wave])

    async def _closed_loop(self) -> None:
        """As many workers as streams; each sends its next request when it has the answer of the one before."""
        requests, workers = self.load.requests, self.load.concurrency or 1
        sessions = None if requests is None else max(1, requests // self.load.turns)
        # Writing requests takes time of its own: it is done before, where their number is known and small.
        ready = sessions is not None and self.load.turns == 1 and sessions <= PREPARED
        jobs = [await self.jobs.make(next(self.numbers)) for _ in range(sessions or 0)] if ready else []
        self._origin = self.sender.clock()
        self._left = iter(range(sessions)) if sessions is not None else itertools.count()
        await self._all([self._work(jobs) for _ in range(workers)])

    async def _work(self, jobs: list[Job]) -> None:
        for index in self._left:
            if self._over():
                return
            if self.load.turns > 1:
                await self._converse()
                continue
            job = jobs[index] if jobs else await self.jobs.make(next(self.numbers))
            await self._send(job, self.sender.clock())

    async def _converse(self) -> None:
        """One conversation: every turn has all earlier ones before it. It ends early where a turn fails."""
        history: list[tuple[str, str]] = []
        for turn in range(self.load.turns):
            job, asked = await self.jobs.turn(next(self.numbers), turn, history)
            text = await self._send(job, self.sender.clock(), keep_text=True)
            if text is None or self._over():
                return
            history.append((asked, text))

    def _over(self) -> bool:
        limit = self.load.duration_s
        return self.control.stopped or (limit is not None and self.sender.clock() - self._origin >= limit)

    async def _send(self, job: Job, due: float, *, keep_text: bool = False) -> str | None:
        """Send one and note it. Returns: its answer's text, None where it failed."""
        answer = await self.sender.send(job, origin=self._origin, scheduled=due, keep_text=keep_text)
        self._found.append(answer.trace)
        self.heard(answer.trace)
        return answer.text if answer.trace.error is None else None

    async def _all(self, work: Sequence[Coroutine[None, None, object]]) -> None:
        """Wait for all of it, or until the run is stopped: then what is under way is cut off."""
        together = asyncio.gather(*work)
        stopped = asyncio.create_task(self.control.wait())
        waited: tuple[asyncio.Future[Any], ...] = (together, stopped)
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if together.done():
                together.result()
        finally:
            stopped.cancel()
            together.cancel()
            await asyncio.gather(together, stopped, return_exceptions=True)
