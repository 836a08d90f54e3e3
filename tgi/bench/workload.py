"""What to send and when: the kinds of load, their moments, and traces of real traffic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from tgi.bench.client import Job
from tgi.bench.endpoint import Endpoint
from tgi.bench.prompts import PromptMaker
from tgi.bench.results import Load
from tgi.errors import ConfigError

CONCURRENCY, CONSTANT, POISSON, BURST, REPLAY, MULTI_TURN, BATCH = (
    "concurrency", "constant", "poisson", "burst", "replay", "multi_turn", "batch"
)  # fmt: skip
OPEN_LOOPS = (CONSTANT, POISSON, REPLAY)
_FOLLOW_UPS = 1 << 40  # numbers of texts that go on with a conversation, apart from those of prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a trace: when, in seconds since the first, and how long; `prompt` where the trace has the text."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    prompt: str | None = None


def moments(load: Load, seed: int) -> list[float]:
    """When the requests of an open loop are due, in seconds since its begin, for `load.requests` or `duration_s`.

    A Poisson process has independent exponential gaps; a constant one has equal ones.
    """
    if not load.rate:
        raise ValueError("an open loop needs a rate")
    chance = random.Random(f"{seed}/{load.label}")
    found: list[float] = []
    at = 0.0
    while (load.requests is None or len(found) < load.requests) and (load.duration_s is None or at < load.duration_s):
        found.append(at)
        at += chance.expovariate(load.rate) if load.kind == POISSON else 1 / load.rate
    return found


class _Line(Struct):
    """A line of a trace, in our words or in those of Mooncake's and other published traces."""

    at_s: float | None = None
    timestamp: float | None = None  # milliseconds
    prompt_tokens: int | None = None
    input_length: int | None = None
    output_tokens: int | None = None
    output_length: int | None = None
    max_tokens: int | None = None
    prompt: str | None = None
    inputs: str | None = None


def read_trace(path: Path, *, limit: int | None = None) -> list[Arrival]:
    """The requests of a JSONL file, in order of time; the first one is due at once.

    Raises: ConfigError naming the line that cannot be used, OSError.
    """
    found: list[Arrival] = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        if text.strip():
            found.append(_arrival(text, f"`{path}` line {number}"))
    if not found:
        raise ConfigError(f"`{path}` holds no request", hint="write one JSON object a line")
    found.sort(key=lambda arrival: arrival.at_s)
    begin = found[0].at_s
    return [
        Arrival(at_s=one.at_s - begin, prompt_tokens=one.prompt_tokens, output_tokens=one.output_tokens,
                prompt=one.prompt)
        for one in found[:limit]
    ]  # fmt: skip


def _arrival(text: bytes, where: str) -> Arrival:
    example = 'such as {"at_s": 0.5, "prompt_tokens": 128, "output_tokens": 32}'
    try:
        line = msgspec.json.decode(text, type=_Line)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where}: {error}", hint=f"write one JSON object a line, {example}") from error
    at_s = line.at_s if line.at_s is not None else None if line.timestamp is None else line.timestamp / 1e3
    prompt = line.prompt if line.prompt is not None else line.inputs
    prompt_tokens = line.prompt_tokens if line.prompt_tokens is not None else line.input_length
    output_tokens = next(
        (value for value in (line.output_tokens, line.output_length, line.max_tokens) if value is not None), None
    )
    missing = [
        name
        for name, absent in (
            ("at_s", at_s is None),
            ("prompt_tokens", prompt_tokens is None and prompt is None),
            ("output_tokens", output_tokens is None),
        )
        if absent
    ]
    if missing or at_s is None or output_tokens is None:
        raise ConfigError(f"{where} lacks `{'`, `'.join(missing)}`", hint=f"write lines {example}")
    if at_s < 0 or output_tokens < 1 or (prompt_tokens is not None and prompt_tokens < 1):
        raise ConfigError(f"{where} has a negative time or an empty request", hint=f"write lines {example}")
    return Arrival(at_s=at_s, prompt_tokens=prompt_tokens or 0, output_tokens=output_tokens, prompt=prompt)


class JobMaker:
    """Turns a load's requests into bytes for one endpoint."""

    def __init__(self, endpoint: Endpoint, prompts: PromptMaker, load: Load, trace: Sequence[Arrival] = ()) -> None:
        self._endpoint = endpoint
        self._prompts = prompts
        self._load = load
        self._trace = trace

    async def make(self, number: int, *, index: int = 0, warmup: bool = False) -> Job:
        """The request of that number, which makes its prompt; `index` is its place in a trace.

        Raises: ConfigError where no prompt has the length asked for.
        """
        prompt_tokens, output_tokens, prompt = self._load.prompt_tokens or 0, self._load.output_tokens or 0, None
        if self._trace:
            arrival = self._trace[index % len(self._trace)]
            prompt_tokens, output_tokens, prompt = arrival.prompt_tokens, arrival.output_tokens, arrival.prompt
        if prompt is None:
            prompt = await self._prompts.make(number, prompt_tokens, shared=self._load.shared_prefix_tokens)
        return Job(
            number=number, body=self._endpoint.body(prompt, output_tokens), prompt_tokens=prompt_tokens,
            output_tokens=output_tokens, warmup=warmup,
        )  # fmt: skip

    async def turn(self, number: int, turn: int, history: Sequence[tuple[str, str]]) -> tuple[Job, str]:
        """The next request of a conversation, and what it asks; `history` holds what was asked and answered."""
        prompt_tokens, output_tokens = self._load.prompt_tokens or 0, self._load.output_tokens or 0
        if history:
            prompt = await self._prompts.follow(_FOLLOW_UPS + number, prompt_tokens)
        else:
            prompt = await self._prompts.make(number, prompt_tokens, shared=self._load.shared_prefix_tokens)
        body = self._endpoint.body(prompt, output_tokens, history=history)
        return Job(
            number=number, body=body, prompt_tokens=prompt_tokens, output_tokens=output_tokens, turn=turn
        ), prompt
