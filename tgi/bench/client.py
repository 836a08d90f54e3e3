"""One request to a server, from the moment it should be sent to its last byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from tgi.bench.results import Trace
from tgi.bench.streams import StreamReader, reader

Clock = Callable[[], float]
MESSAGE_LENGTH = 200  # characters kept of what a server says of a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request ready to be sent. `prompt_tokens` is what was asked for; the server's word wins."""

    number: int
    body: bytes
    prompt_tokens: int
    output_tokens: int
    turn: int = 0
    warmup: bool = False


@dataclass(slots=True)
class Progress:
    """What is under way now; samples are taken from it."""

    in_flight: int = 0
    tokens: int = 0  # that requests under way have received


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request went, and what it said where that was to be kept."""

    trace: Trace
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Sends jobs to one endpoint. The session's connections are kept between requests."""

    session: aiohttp.ClientSession
    url: str  # of the route
    protocol: str
    headers: Mapping[str, str]
    target: int = 0
    clock: Clock = time.perf_counter
    progress: Progress = field(default_factory=Progress)

    async def send(self, job: Job, *, origin: float, scheduled: float, keep_text: bool = False) -> Answer:
        """Send a job now; it should have been at `scheduled`. Failures are in the trace, by kind.

        Kinds: `connect`, `timeout`, `disconnected`, `http_<status>`, and those of the stream: `stream_<type>` for an
        error event, `incomplete`, `malformed`.
        """
        stream = reader(self.protocol, keep_text=keep_text)
        sent = self.clock()
        self.progress.in_flight += 1
        try:
            error, message = await self._exchange(job, stream)
        finally:
            self.progress.in_flight -= 1
            self.progress.tokens -= len(stream.token_times)
        finished = self.clock()
        trace = Trace(
            number=job.number,
            scheduled_s=scheduled - origin,
            sent_s=sent - origin,
            finished_s=finished - origin,
            token_times_s=tuple([moment - origin for moment in stream.token_times]),
            prompt_tokens=stream.prompt_tokens or job.prompt_tokens,
            output_tokens=stream.output_tokens,
            error=error,
            message=None if message is None else message[:MESSAGE_LENGTH],
            turn=job.turn,
            warmup=job.warmup,
            target=self.target,
        )
        return Answer(trace, stream.text)

    async def _exchange(self, job: Job, stream: StreamReader) -> tuple[str | None, str | None]:
        """Send and read. Returns: the kind of failure and its words, or None twice."""
        try:
            async with self.session.post(self.url, data=job.body, headers=self.headers) as response:
                if response.status != 200:
                    return f"http_{response.status}", (await response.text(errors="replace")).strip()
                while data := await response.content.readany():
                    before = len(stream.token_times)
                    stream.feed(data, self.clock())
                    self.progress.tokens += len(stream.token_times) - before
        except aiohttp.ClientConnectorError as error:
            return "connect", str(error)
        except TimeoutError as error:
            return "timeout", str(error) or "no answer in time"
        except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError) as error:
            return stream.error or "disconnected", stream.message or str(error) or type(error).__name__
        stream.close()
        return stream.error, stream.message


def open_session(timeout_s: float) -> aiohttp.ClientSession:
    """A session for any number of streams at once; a request that takes longer than `timeout_s` has failed."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 30)),
        trust_env=False,
        auto_decompress=False,
    )
