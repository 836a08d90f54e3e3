"""One request: what its trace says of answers and of every kind of failure."""

from __future__ import annotations

import pytest

from tests.bench.fake_server import FakeServer, serve
from tgi.bench.client import Answer, Job, Sender, open_session
from tgi.bench.endpoint import connect


async def send(failure: str | None = None, *, tokens: int = 4) -> Answer:
    server = FakeServer()
    async with serve(server) as url, open_session(10.0) as session:
        endpoint = await connect(session, url)
        server.failures = {} if failure is None else {len(server.bodies): failure}
        moments = iter(float(n) for n in range(1000))
        sender = Sender(session=session, url=endpoint.route, protocol=endpoint.protocol, headers=endpoint.headers,
                        clock=lambda: next(moments))  # fmt: skip
        job = Job(number=7, body=endpoint.body("one two three", tokens), prompt_tokens=99, output_tokens=tokens)
        answer = await sender.send(job, origin=-10.0, scheduled=-4.0, keep_text=True)
        assert (sender.progress.in_flight, sender.progress.tokens) == (0, 0)
        return answer


async def test_times_count_from_the_origin_and_the_schedule_is_kept() -> None:
    answer = await send()
    trace = answer.trace
    assert (trace.number, trace.scheduled_s, trace.sent_s) == (7, 6.0, 10.0)
    assert trace.sent_s < trace.token_times_s[0] <= trace.token_times_s[-1] < trace.finished_s
    assert (trace.prompt_tokens, trace.output_tokens, trace.error) == (3, 4, None)
    assert answer.text == " w w w w"


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        ("429", "http_429", "Model is overloaded"),
        ("error", "stream_generation", "out of cheese"),
        ("incomplete", "incomplete", "without its last event"),
        ("cut", "disconnected", ""),
    ],
)
async def test_failures_are_told_apart(failure: str, kind: str, words: str) -> None:
    trace = (await send(failure)).trace
    assert trace.error == kind
    assert words in str(trace.message)


async def test_a_server_that_is_not_there_is_a_failure_of_its_own() -> None:
    async with open_session(10.0) as session:
        sender = Sender(session=session, url="http://127.0.0.1:9/generate_stream", protocol="tgi", headers={})
        job = Job(number=0, body=b"{}", prompt_tokens=1, output_tokens=1)
        assert (await sender.send(job, origin=0.0, scheduled=0.0)).trace.error == "connect"
