"""The engine is disposable: killed at any moment, every stream goes on with the same tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import LiveServer

PROMPTS = [f"Write a short story about the number {n} and a {thing}." for n, thing in enumerate(("fox", "boat", "hat"))]
REQUESTS: list[dict[str, Any]] = [
    {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 48, "details": True}},
    {"inputs": PROMPTS[1], "parameters": {"max_new_tokens": 48, "details": True, "do_sample": True, "seed": 7}},
    {"inputs": PROMPTS[2], "parameters": {"max_new_tokens": 48, "repetition_penalty": 1.2, "seed": 2**63 + 5,
                                          "temperature": 0.7, "top_p": 0.9, "details": True}},
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer() as live:
        yield live


@pytest.fixture(scope="module")
def undisturbed(server: LiveServer) -> list[list[int]]:
    return [ids(server.stream(request)) for request in REQUESTS]


def ids(events: list[dict[str, Any]]) -> list[int]:
    """Token ids of a complete stream, which must number its tokens without gap or repetition."""
    assert [event["index"] for event in events] == list(range(1, len(events) + 1)), events[-1]
    assert events[-1]["details"]["finish_reason"] in ("length", "eos_token")
    return [event["token"]["id"] for event in events]


def stream_and_kill(server: LiveServer, request: dict[str, Any], kill_after: set[int]) -> list[int]:
    """Read a stream; SIGKILL the engine after the given numbers of received events."""
    events = []
    with server.open("/generate_stream", request) as response:
        for line in response:
            if line.startswith(b"data:"):
                events.append(json.loads(line[5:]))
                if len(events) in kill_after:
                    server.engine().kill()
    return ids(events)


@pytest.mark.parametrize("number", range(len(REQUESTS)))
@pytest.mark.parametrize("kill_after", [{1}, {20}, {47}, {5, 30}], ids=str)
def test_a_stream_survives_a_kill_with_the_same_tokens(
    server: LiveServer, undisturbed: list[list[int]], number: int, kill_after: set[int]
) -> None:
    assert stream_and_kill(server, REQUESTS[number], kill_after) == undisturbed[number]


def test_all_concurrent_streams_survive_a_kill(server: LiveServer, undisturbed: list[list[int]]) -> None:
    answers: dict[int, list[int]] = {}

    def run(number: int) -> None:
        answers[number] = ids(server.stream(REQUESTS[number % len(REQUESTS)]))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(9)]
    for thread in threads:
        thread.start()
    assert stream_and_kill(server, REQUESTS[0], {3, 12, 40}) == undisturbed[0]
    for thread in threads:
        thread.join()
    assert answers == {n: undisturbed[n % len(REQUESTS)] for n in range(9)}


def test_a_kill_while_idle_costs_the_next_request_nothing_but_time(
    server: LiveServer, undisturbed: list[list[int]]
) -> None:
    server.engine().kill()
    assert ids(server.stream(REQUESTS[0])) == undisturbed[0]


def test_a_kill_during_prefill_of_a_long_prompt(server: LiveServer) -> None:
    request = {
        "inputs": " ".join(f"word{n}" for n in range(700)),
        "parameters": {"max_new_tokens": 8, "details": True},
    }
    expected = ids(server.stream(request))
    with server.open("/generate_stream", {**request, "inputs": "x " + str(request["inputs"])}) as response:
        server.engine().kill()  # the prompt takes several steps; its first token has not come yet
        events = [json.loads(line[5:]) for line in response if line.startswith(b"data:")]
    ids(events)
    assert ids(server.stream(request)) == expected


def test_a_non_streaming_request_survives_a_kill(server: LiveServer) -> None:
    body = {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 64, "details": True}}
    expected = server.post("/generate", body)
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(server.post("/generate", body)))
    thread.start()
    server.engine().kill()
    thread.join()
    assert answer == [expected]


def test_the_server_ends_with_code_0_and_leaves_no_process(server: LiveServer) -> None:
    engine = server.engine()
    assert server.stop() == 0
    assert not engine.is_running()
