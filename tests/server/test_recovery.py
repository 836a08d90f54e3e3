"""EngineSupervisor over real engine processes with a fake runner: no token is lost, doubled or changed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import expected_tokens, make_request
from tgi.config import Config, Http
from tgi.engine.messages import EngineRequest, FinishReason, StepStats
from tgi.errors import GenerationError, IncompleteGeneration, ModelError, Unavailable
from tgi.server.observer import Observer
from tgi.server.recovery import EngineSupervisor, RestartBudget, Token, TokenStream

POISON = 200
Start = Callable[..., Awaitable[EngineSupervisor]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts supervisors whose engines run a fake runner with these options; ends them."""
    supervisors: list[EngineSupervisor] = []

    async def start(*, config: Config | None = None, **options: Any) -> EngineSupervisor:
        budget = RestartBudget(first_delay_s=0.001, longest_delay_s=0.002)
        supervisor = EngineSupervisor(
            config or Config(), Path(json.dumps(options)), runner="tests.fakes:load_fake_runner", budget=budget
        )
        supervisors.append(supervisor)
        await supervisor.start()
        return supervisor

    yield start
    for supervisor in supervisors:
        await supervisor.close()


async def _collect(stream: TokenStream) -> list[int]:
    tokens = [token async for token in stream]
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert tokens[-1].finish
    return [token.id for token in tokens]


def _requests(supervisor: EngineSupervisor, count: int, max_new_tokens: int = 12) -> list[EngineRequest]:
    return [
        make_request(supervisor.next_id(), range(i, 2 * i + 4), max_new_tokens, seed=i, top_tokens=1)
        for i in range(count)
    ]


async def test_streams_of_an_undisturbed_engine_are_complete(start: Start) -> None:
    supervisor = await start()
    stats: list[StepStats] = []
    supervisor.observer.step = lambda step, dispatch_s: stats.append(step)  # type: ignore[method-assign]
    assert (supervisor.state, supervisor.ready.block_size) == ("ready", 4)
    request = make_request(supervisor.next_id(), range(20), top_tokens=1, prompt_logprobs=True)
    stream = supervisor.submit(request)
    tokens = [token async for token in stream]
    assert [token.id for token in tokens] == expected_tokens(request)
    assert [token.finish for token in tokens] == [FinishReason.NONE] * 7 + [FinishReason.LENGTH]
    assert all(token.top == ((token.id, token.logprob),) for token in tokens)
    assert stream.scheduled_at is not None
    assert stream.prompt is not None
    assert (stream.prompt.logprobs[0], len(stream.prompt.logprobs), len(stream.prompt.top)) == (None, 20, 20)
    assert supervisor.last_stats == stats[-1]
    assert sum(s.prefill_tokens + s.decode_tokens for s in stats) == 20 + 7


@pytest.mark.parametrize("step", [0, 1, 2, 5, 13], ids=["prefill", "chunk", "mixed", "decode", "last token"])
async def test_a_kill_in_any_phase_changes_no_stream(start: Start, tmp_path: Path, step: int) -> None:
    marker = tmp_path / "killed"
    supervisor = await start(kill_at_step=step, marker=str(marker))
    requests = _requests(supervisor, 5)
    streams = [supervisor.submit(request) for request in requests]
    assert await asyncio.gather(*map(_collect, streams)) == [expected_tokens(request) for request in requests]
    assert marker.exists()
    assert (supervisor.restarts, supervisor.state) == (1, "ready")


async def test_an_engine_killed_while_idle_is_replaced_before_the_next_request(start: Start) -> None:
    supervisor = await start()
    pid = supervisor.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    request = make_request(supervisor.next_id(), [1, 2, 3])
    assert await _collect(supervisor.submit(request)) == expected_tokens(request)
    assert supervisor.restarts == 1
    assert supervisor.engine_pid not in (None, pid)


async def test_a_successor_keeps_the_limits_that_clients_were_promised(start: Start, tmp_path: Path) -> None:
    supervisor = await start(scarce=str(tmp_path / "seen"), block_size=4)
    promised = supervisor.ready
    assert supervisor.engine_pid is not None
    os.kill(supervisor.engine_pid, signal.SIGKILL)
    request = make_request(supervisor.next_id(), range(100))
    assert await _collect(supervisor.submit(request)) == expected_tokens(request)
    assert (supervisor.ready.num_blocks, supervisor.restarts) == (promised.num_blocks, 1)


async def test_many_kills_from_outside_blame_nobody(start: Start) -> None:
    supervisor = await start(step_s=0.002)
    requests = _requests(supervisor, 3, max_new_tokens=40)
    streams = [supervisor.submit(request) for request in requests]
    tokens: list[Token] = []
    async for token in streams[0]:
        tokens.append(token)
        if token.index in (3, 20, 30):
            pid = supervisor.engine_pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
    assert [token.id for token in tokens] == expected_tokens(requests[0])
    assert await asyncio.gather(*map(_collect, streams[1:])) == [expected_tokens(r) for r in requests[1:]]
    assert supervisor.restarts >= 2


@pytest.mark.parametrize("fault", ["kill", "raise"])
async def test_a_request_that_kills_every_engine_fails_alone(start: Start, fault: str) -> None:
    supervisor = await start(faults={POISON: fault})
    requests = _requests(supervisor, 4)
    streams = [supervisor.submit(request) for request in requests[:2]]
    poison = supervisor.submit(make_request(supervisor.next_id(), [5, POISON, 6]))
    streams += [supervisor.submit(request) for request in requests[2:]]
    with pytest.raises(GenerationError, match="crashed"):
        await _collect(poison)
    assert await asyncio.gather(*map(_collect, streams)) == [expected_tokens(request) for request in requests]
    assert supervisor.restarts <= 3
    assert supervisor.state == "ready"


async def test_two_requests_that_kill_engines_both_fail_and_the_server_lives(start: Start) -> None:
    supervisor = await start(faults={POISON: "kill"})
    poisons = [supervisor.submit(make_request(supervisor.next_id(), [i, POISON])) for i in range(2)]
    for poison in poisons:
        with pytest.raises(GenerationError, match="crashed"):
            await _collect(poison)
    request = make_request(supervisor.next_id(), [1])
    assert await _collect(supervisor.submit(request)) == expected_tokens(request)


async def test_a_step_out_of_memory_fails_its_requests_only(start: Start) -> None:
    supervisor = await start(faults={POISON: "oom"})
    with pytest.raises(GenerationError, match="out of memory"):
        await _collect(supervisor.submit(make_request(supervisor.next_id(), [POISON])))
    request = make_request(supervisor.next_id(), [1])
    assert await _collect(supervisor.submit(request)) == expected_tokens(request)
    assert supervisor.restarts == 0


async def test_unusable_logits_and_impossible_requests_fail_alone(start: Start) -> None:
    supervisor = await start(faults={POISON: "nan"})
    for request_, reason in (([POISON], "not finite"), (range(199), "do not fit")):
        with pytest.raises(GenerationError, match=reason):
            await _collect(supervisor.submit(make_request(supervisor.next_id(), request_)))
    assert supervisor.restarts == 0


async def test_an_engine_that_stops_answering_is_replaced(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = await start(config=Config(http=Http(step_timeout=0.05)))
    pid = supervisor.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    request = make_request(supervisor.next_id(), [1, 2])
    assert await _collect(supervisor.submit(request)) == expected_tokens(request)
    assert supervisor.restarts == 1
    assert "the engine has been silent" in caplog.text


async def test_useless_restarts_end_and_every_stream_hears_of_it(start: Start) -> None:
    supervisor = await start(faults={POISON: "kill"})
    supervisor._model_path = Path(json.dumps({"die": True}))
    streams = [supervisor.submit(make_request(supervisor.next_id(), [i, POISON])) for i in range(3)]
    for stream in streams:
        with pytest.raises(GenerationError, match="could not be restarted"):
            await _collect(stream)
    await supervisor.wait_failed()
    assert (supervisor.state, supervisor.restarts, supervisor.engine_pid) == ("failed", 5, None)
    with pytest.raises(Unavailable):
        supervisor.submit(make_request(supervisor.next_id(), [1]))


async def test_a_model_that_cannot_be_loaded_is_reported_with_its_hint(start: Start) -> None:
    with pytest.raises(ModelError, match="no weights") as caught:
        await start(error="no weights")
    assert (caught.value.hint, caught.value.exit_code) == ("give another", 12)
    with pytest.raises(ModelError, match="killed by SIGKILL while it was loading"):
        await start(die=True)


async def test_a_closed_stream_is_aborted_even_while_no_engine_lives(start: Start) -> None:
    supervisor = await start(step_s=0.002)
    requests = _requests(supervisor, 2, max_new_tokens=40)
    aborted, kept = (supervisor.submit(request) for request in requests)
    async for token in aborted:
        if token.index == 2:
            break
    pid = supervisor.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while supervisor.state != "recovering":  # noqa: ASYNC110
        await asyncio.sleep(0)
    aborted.close()
    aborted.close()
    late = make_request(supervisor.next_id(), [9])
    queued = supervisor.submit(late)
    assert await _collect(kept) == expected_tokens(requests[1])
    assert await _collect(queued) == expected_tokens(late)
    assert supervisor.last_stats is not None
    assert supervisor.last_stats.running == 0


async def test_a_missing_token_fails_its_stream_loudly(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = await start()
    stream = supervisor.submit(make_request(supervisor.next_id(), [1]))
    record = supervisor._journal.record
    # As if the engine skipped its third token.
    supervisor._journal.record = lambda i, index, token: record(i, index + (index > 1), token)  # type: ignore
    with pytest.raises(IncompleteGeneration):
        await _collect(stream)
    assert "request 1: output 3 came after output 1" in caplog.text


async def test_closing_ends_the_engine_and_open_streams(start: Start) -> None:
    supervisor = await start(step_s=0.01)
    stream = supervisor.submit(make_request(supervisor.next_id(), [1], max_new_tokens=100))
    await anext(stream)
    pid = supervisor.engine_pid
    assert pid is not None
    await supervisor.close()
    assert supervisor.state == "draining"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Unavailable):
        async for _ in stream:
            pass


def test_delays_between_useless_restarts_grow_to_their_limit() -> None:
    budget = RestartBudget()
    delays = []
    while not budget.spent:
        delays.append(budget.delay_s())
        budget.fruitless += 1
    assert delays == pytest.approx([0, 0.1, 0.3, 0.9, 2.7])


class Heard(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.deaths: list[tuple[int, tuple[str, ...]]] = []
        self.causes: list[str] = []
        self.gaps: list[float] = []

    def die(self, waiting: int, methods: Sequence[str]) -> None:
        self.deaths.append((waiting, tuple(methods)))

    def restart(self, reason: str) -> None:
        self.causes.append(reason)

    def resume(self, gap_s: float) -> None:
        self.gaps.append(gap_s)


@pytest.mark.parametrize(("fault", "cause"), [("kill", "signal"), ("raise", "exception"), ("stop", "silence")])
async def test_a_death_and_what_survives_it_are_told(start: Start, fault: str, cause: str) -> None:
    supervisor = await start(config=Config(http=Http(step_timeout=0.5)), faults={POISON: fault})
    supervisor.observer = heard = Heard()
    healthy = make_request(supervisor.next_id(), range(4))
    streams = [supervisor.submit(healthy), supervisor.submit(make_request(supervisor.next_id(), [5, POISON, 6]))]
    assert await _collect(streams[0]) == expected_tokens(healthy)
    with pytest.raises(GenerationError, match="crashed"):
        await _collect(streams[1])
    # The last death is told before the engine after it begins: one more answer comes from that engine.
    after = make_request(supervisor.next_id(), range(7, 9))
    assert await _collect(supervisor.submit(after)) == expected_tokens(after)
    assert set(heard.causes) == {cause}
    assert len(heard.causes) == len(heard.deaths) == supervisor.restarts
    assert heard.deaths[0][1] in (("prefill",), ("prefill", "decode"))
    # The healthy one's: one for each death that found it unfinished. The others got no token before a death.
    assert 1 <= len(heard.gaps) <= supervisor.restarts
    assert min(heard.gaps) > 0
