"""A prefix that several requests share is computed once, even while it is being computed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.bench import Bench
from tests.fakes import expected_tokens, make_request
from tgi.engine.messages import EngineRequest
from tgi.engine.scheduler import LOOK_AHEAD


def siblings(count: int, length: int, **options: Any) -> list[EngineRequest]:
    """Choices of one request: the same prompt and seed, each a sequence of its own."""
    return [make_request(i, range(length), seed=i, max_new_tokens=4, **options) for i in range(1, count + 1)]


@pytest.mark.parametrize("prompt_logprobs", [False, True])
def test_choices_of_one_request_compute_its_prompt_once(prompt_logprobs: bool) -> None:
    bench = Bench(num_blocks=256, block_size=16, max_total_tokens=1024, max_step_tokens=256)
    first, *others = siblings(4, 200)
    requests = [make_request(1, range(200), seed=1, max_new_tokens=4, prompt_logprobs=prompt_logprobs), *others]
    for request in requests:
        bench.add(request)
    bench.run()
    assert bench.outputs[0].stats.started_ids == (1,)
    assert bench.outputs[1].stats.started_ids == (2, 3, 4)
    assert sum(output.stats.prefill_tokens for output in bench.outputs) == 200 + 3 * 8  # 12 blocks of 16, and 8 tokens
    assert sum(output.stats.cached_tokens for output in bench.outputs) == 3 * 192
    assert [bench.tokens[r.id] for r in (first, *others)] == [expected_tokens(r) for r in (first, *others)]


def test_others_pass_a_request_that_waits_for_a_prefix() -> None:
    bench = Bench(num_blocks=256, block_size=4, max_total_tokens=256, max_step_tokens=64)
    for request in (*siblings(3, 20), make_request(9, range(50, 60))):
        bench.add(request)
    bench.step()
    assert bench.outputs[0].stats.started_ids == (1, 9)
    bench.step()
    assert bench.outputs[1].stats.started_ids == (2, 3)


def test_few_requests_are_looked_at_beyond_the_first_that_waits_for_a_prefix() -> None:
    bench = Bench(num_blocks=256, block_size=4, max_total_tokens=256, max_step_tokens=64, max_rows=64)
    for request in (*siblings(LOOK_AHEAD + 1, 20), make_request(99, range(50, 60))):
        bench.add(request)
    bench.step()
    assert bench.outputs[0].stats.started_ids == (1,)
    bench.step()
    assert bench.outputs[1].stats.started_ids == (*range(2, LOOK_AHEAD + 2), 99)  # in order


@pytest.mark.parametrize("max_step_tokens", [8, 64])
def test_a_prefix_that_is_never_finished_is_computed_by_who_waited_for_it(max_step_tokens: int) -> None:
    bench = Bench(num_blocks=64, block_size=4, max_total_tokens=64, max_step_tokens=max_step_tokens)
    first, second, third = siblings(3, 30)
    for request in (first, second, third):
        bench.add(request)
    plan = bench.scheduler.plan()
    assert plan is not None
    bench.scheduler.abort([first.id])
    bench.run()
    assert [bench.tokens[r.id] for r in (second, third)] == [expected_tokens(r) for r in (second, third)]
    assert sum(output.stats.prefill_tokens for output in bench.outputs) == 30 + 2  # 7 blocks of 4 come from the second


def test_a_request_waits_only_for_blocks_that_are_not_computed_yet() -> None:
    bench = Bench(num_blocks=64, block_size=4, max_total_tokens=64, max_step_tokens=8)
    requests = [make_request(1, range(13)), make_request(2, [*range(12), 77]), make_request(3, range(6))]
    for request in requests:
        bench.add(request)
    bench.step()  # two of the first request's three full blocks
    assert bench.outputs[0].stats.started_ids == (1,)
    bench.step()  # the third one, which the second request needs and the third request does not
    assert bench.outputs[1].stats.started_ids == (3,)
    bench.step()
    assert bench.outputs[2].stats.started_ids == (2,)
    bench.run()
    assert [output.stats.cached_tokens for output in bench.outputs[:3]] == [0, 4, 12]
    assert [bench.tokens[r.id] for r in requests] == [expected_tokens(r) for r in requests]
