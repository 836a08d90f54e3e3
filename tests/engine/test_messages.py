"""Messages keep what they carry across the wire, and stay small and fast."""

from __future__ import annotations

import msgspec
import pytest

from tests.fakes import make_ready, make_request
from tgi.engine.messages import (
    Abort,
    AddRequest,
    EngineFailed,
    FromEngine,
    RequestFailed,
    Shutdown,
    StepBegins,
    StepOutput,
    StepStats,
    ToEngine,
)
from tgi.sampling import TopTokens

STATS = StepStats(
    waiting=0, running=1, free_blocks=2, cached_tokens=3, preemptions=0, prefill_tokens=4, decode_tokens=5,
    forward_s=0.1, sample_s=0.2, started_ids=(9,),
)  # fmt: skip
OUTPUT = StepOutput(
    request_ids=b"\x01" + b"\0" * 7, indices=b"\0" * 4, token_ids=b"\x05\0\0\0", logprobs=b"\0" * 4, finish=b"\x02",
    top={0: TopTokens(b"\0" * 4, b"\0" * 4)}, prompt_logprobs={0: b"\0\0\xc0\x7f"}, stats=STATS,
)  # fmt: skip


@pytest.mark.parametrize(
    ("message", "union"),
    [
        (AddRequest(make_request(1 << 40, [1, 2], output_ids=[3], stop_ids=(4, 5), cache_salt="é")), ToEngine),
        (Abort((1, 2)), ToEngine),
        (Shutdown(), ToEngine),
        (make_ready(), FromEngine),
        (StepBegins((1, 2)), FromEngine),
        (OUTPUT, FromEngine),
        (RequestFailed((1,), "reason"), FromEngine),
        (EngineFailed("reason", "traceback", (1,), fatal=True, hint="hint", exit_code=12), FromEngine),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_message_arrives_as_it_was_sent(message: object, union: object) -> None:
    encoded = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(encoded, type=union) == message
