"""The headers of an answer, and the state of the server."""

from __future__ import annotations

from tests.server.serving import serve
from tgi.server.schemas import GenerateParameters
from tgi.server.services import json_response


async def test_times_are_whole_milliseconds_and_sums() -> None:
    async with serve() as server:
        services = server.services
        prepared = await services.validator.validate("ab", GenerateParameters(max_new_tokens=3))
        with services.inference.generate([prepared, prepared], 0.0) as generations:
            for generation, shift in zip(generations, (0.0, 1.0), strict=True):
                await generation.collect()
                timings = generation.timings
                timings.received, timings.queued, timings.scheduled, timings.done = shift, 1.0009, 1.5, 3.0
            answer = services.answer({}, characters=2, prompt_tokens=4, generations=generations, timed=generations)
    expected = {
        "x-compute-time": "5.0", "x-total-time": "5000", "x-validation-time": "1001", "x-queue-time": "998",
        "x-inference-time": "3000", "x-time-per-token": "1000", "x-prompt-tokens": "4", "x-generated-tokens": "6",
        "x-compute-characters": "2",
    }  # fmt: skip
    assert {name: answer.headers[name] for name in expected} == expected


async def test_health_is_the_supervisors_state_unless_the_server_is_ending() -> None:
    async with serve() as server:
        server.supervisor.state = "recovering"
        assert server.services.health == "recovering"
        server.services.draining = True
        assert server.services.health == "draining"


def test_json_has_no_charset() -> None:
    assert json_response([1]).headers["content-type"] == "application/json"
