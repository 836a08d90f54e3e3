"""EngineClient: what an engine says, decoded, until it dies of whatever cause."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.engine.test_messages import STATS
from tests.fakes import expected_tokens, make_request
from tgi.config import Config, Http
from tgi.engine.client import EngineClient, PromptReport, Step, Token, decode
from tgi.engine.messages import FinishReason, StepOutput
from tgi.errors import EngineGone, ModelError
from tgi.sampling import TopTokens

_COLUMN = np.arange(2, dtype=np.int32).tobytes()
_OUTPUT = StepOutput(
    request_ids=np.arange(2, dtype=np.int64).tobytes(), indices=_COLUMN, token_ids=_COLUMN, logprobs=_COLUMN,
    finish=bytes(2), stats=STATS,
)  # fmt: skip


class Heard:
    """A listener that writes down what it hears."""

    def __init__(self, wanted: int = 1) -> None:
        self.tokens: list[tuple[int, Token]] = []
        self.begun_ids: list[int] = []
        self.failed: dict[int, str] = {}
        self.complete = asyncio.Event()
        self._wanted = wanted

    def begun(self, ids: tuple[int, ...]) -> None:
        self.begun_ids += ids

    def stepped(self, step: Step) -> None:
        self.tokens += step.tokens
        self._wanted -= sum(token.finish is not FinishReason.NONE for _, token in step.tokens)
        if self._wanted == 0:
            self.complete.set()

    def idled(self, free_blocks: int) -> None:
        self.free_blocks = free_blocks

    def refused(self, ids: tuple[int, ...], reason: str) -> None:
        self.failed.update(dict.fromkeys(ids, reason))
        self.complete.set()


async def _start(config: Config | None = None, **options: Any) -> EngineClient:
    client, ready = await EngineClient.start(
        config or Config(), Path(json.dumps(options)), runner="tests.fakes:load_fake_runner"
    )
    assert ready.model_type == "fake"
    return client


def test_columns_become_tokens_with_what_belongs_to_each() -> None:
    output = StepOutput(
        request_ids=np.array([1 << 40, 2], np.int64).tobytes(),
        indices=np.array([3, 0], np.int32).tobytes(),
        token_ids=np.array([70, 80], np.int32).tobytes(),
        logprobs=np.array([-0.2580618, -0.25], np.float32).tobytes(),
        finish=bytes([0, 2]),
        top={1: TopTokens(np.array([80, 9], np.int32).tobytes(), np.array([-0.25, -2], np.float32).tobytes())},
        prompt_logprobs={1: np.array([np.nan, -1.5, -0.5], np.float32).tobytes()},
        prompt_top={1: {2: TopTokens(np.array([7], np.int32).tobytes(), np.array([-0.5], np.float32).tobytes())}},
        stats=STATS,
    )
    assert decode(output) == Step(
        tokens=[
            (1 << 40, Token(3, 70, -0.2580618)),  # the shortest decimal of that float32
            (2, Token(0, 80, -0.25, ((80, -0.25), (9, -2.0)), FinishReason.STOP_ID)),
        ],
        prompts={2: PromptReport([None, -1.5, -0.5], [(), (), ((7, -0.5),)])},
        stats=STATS,
    )


async def test_a_client_hears_of_its_requests_and_then_of_the_engines_end() -> None:
    client = await _start()
    heard = Heard(wanted=2)
    conversation = asyncio.create_task(client.run(heard))
    requests = [make_request(i, [i]) for i in (1, 2)]
    for request in requests:
        client.add(request)
    await heard.complete.wait()
    assert heard.begun_ids == [1, 2]
    for request in requests:
        assert [token.id for i, token in heard.tokens if i == request.id] == expected_tokens(request)
    os.kill(client.pid, signal.SIGKILL)
    death = await conversation
    assert (death.how, death.traceback, death.request_ids) == ("was killed by SIGKILL", "", None)


async def test_an_engines_last_words_tell_what_failed_and_with_whom() -> None:
    client = await _start(faults={200: "raise"})
    client.add(make_request(7, [200]))
    death = await client.run(Heard())
    assert death.how == "failed with `RuntimeError: the kernel failed`"
    assert death.request_ids == (7,)
    assert "in execute" in death.traceback


async def test_an_aborted_request_is_heard_of_no_more() -> None:
    client = await _start(step_s=0.001)
    heard = Heard()
    conversation = asyncio.create_task(client.run(heard))
    client.add(make_request(1, [1], max_new_tokens=150))
    client.abort([1])
    client.add(make_request(2, [2]))
    await heard.complete.wait()
    assert max((token.index for i, token in heard.tokens if i == 1), default=0) < 10
    await client.close()
    await conversation


async def test_a_silent_engine_shows_its_stacks_and_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    client = await _start(config=Config(http=Http(step_timeout=0.05)), step_s=60)
    client.add(make_request(1, [1]))
    death = await client.run(Heard())
    assert death.how == "was killed by SIGKILL"
    assert "in execute" in capfd.readouterr().err


async def test_an_idle_engine_may_be_silent_for_ever() -> None:
    client = await _start(config=Config(http=Http(step_timeout=0.001)))
    heard = Heard()
    conversation = asyncio.create_task(client.run(heard))
    for _ in range(20):
        client._watch()
        await asyncio.sleep(0)
    assert client._timer is not None
    client._timer.cancel()
    client.add(make_request(1, [1]))
    await heard.complete.wait()
    await client.close()
    assert (await conversation).how == "was killed by SIGKILL"


async def test_an_engine_that_cannot_load_says_why_or_leaves_only_its_status() -> None:
    with pytest.raises(ModelError, match="no such model"):
        await _start(error="no such model")
    with pytest.raises(EngineGone, match="killed by SIGKILL while it was loading"):
        await _start(die=True)
    with pytest.raises(EngineGone, match=r"TypeError: .* unexpected keyword argument 'colour'"):
        await _start(colour="blue")


@given(st.floats(width=32, allow_nan=False))
@example(-3.4028234663852886e38)
@example(-1e-45)
@example(float(np.float32(-0.1)))
def test_a_float_is_the_decimal_that_numpy_writes(value: float) -> None:
    column = np.array([value, -0.2580618], np.float32)
    step = decode(msgspec.structs.replace(_OUTPUT, logprobs=column.tobytes()))
    assert [token.logprob for _, token in step.tokens] == [float(str(one)) for one in column]


def test_a_log_probability_that_is_no_number_stays_none() -> None:
    step = decode(msgspec.structs.replace(_OUTPUT, logprobs=np.array([np.nan, -np.inf], np.float32).tobytes()))
    assert [str(token.logprob) for _, token in step.tokens] == ["nan", "-inf"]
