"""Scheduler: who computes what, and that no sequence of events changes anybody's tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.bench import Bench
from tests.fakes import expected_tokens, make_request
from tgi.engine.messages import EngineRequest, FinishReason
from tgi.engine.scheduler import MOST_PREEMPTIONS


def test_a_lone_request_may_fill_the_whole_cache() -> None:
    bench = Bench(num_blocks=5, block_size=4, max_total_tokens=20)
    request = make_request(1, range(12), max_new_tokens=8)
    bench.add(request)
    bench.run()
    assert bench.tokens[1] == expected_tokens(request)
    assert bench.allocator().num_free == 5


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (make_request(1, range(150), max_new_tokens=51), "do not fit"),
        (make_request(1, range(30), max_new_tokens=20), "do not fit"),  # 49 slots: 13 blocks of 12
        (make_request(1, []), "0 prompt tokens"),
        (make_request(1, [1], max_new_tokens=2, output_ids=[1, 2]), "2 of 2 output tokens"),
        (make_request(7, [1]), "in use"),
    ],
)
def test_a_request_that_cannot_be_computed_is_refused(request_: EngineRequest, reason: str) -> None:
    bench = Bench(num_blocks=12)
    bench.add(make_request(7, [1]))
    with pytest.raises(ValueError, match=reason):
        bench.scheduler.add(request_)


def test_running_requests_come_before_waiting_ones_and_older_before_newer() -> None:
    bench = Bench(max_step_tokens=8)
    for request_id, length in ((1, 3), (2, 9), (3, 2)):
        bench.add(make_request(request_id, range(1, length + 1)))
    bench.step()
    assert bench.plans[0].input_ids.tolist() == [1, 2, 3, 1, 2, 3, 4, 5]  # 1 whole, 2 in part
    bench.step()
    assert np.diff(bench.plans[1].query_starts).tolist() == [1, 4, 2]  # 1 decodes beside the prefills of 2 and 3
    assert bench.outputs[1].stats.started_ids == (3,)
    assert (bench.outputs[1].stats.prefill_tokens, bench.outputs[1].stats.decode_tokens) == (6, 1)


def test_blocks_are_taken_on_need_not_for_the_longest_answer() -> None:
    bench = Bench(num_blocks=12, block_size=4, max_total_tokens=48)
    bench.add(make_request(1, range(4), max_new_tokens=40))
    bench.add(make_request(2, range(4, 8), max_new_tokens=40))
    bench.step()
    assert bench.outputs[0].stats.running == 2
    assert bench.outputs[0].stats.free_blocks == 10


def test_the_newest_request_is_preempted_and_continues_with_the_same_tokens() -> None:
    bench = Bench(num_blocks=8, block_size=4, max_total_tokens=32, prefix_caching=False)
    requests = [make_request(i, range(i, i + 6), max_new_tokens=16) for i in (1, 2)]
    for request in requests:
        bench.add(request)
    bench.run()
    assert sum(output.stats.preemptions for output in bench.outputs) > 0
    assert [bench.tokens[r.id] for r in requests] == [expected_tokens(r) for r in requests]
    first_preemption = next(i for i, output in enumerate(bench.outputs) if output.stats.preemptions)
    state = next(s for plan in bench.plans[first_preemption:] for s in plan.started)
    assert state.prompt_ids.tolist() == list(range(2, 8))  # the newest
    assert state.output_ids.tolist() == expected_tokens(requests[1])[: len(state.output_ids)]
    assert len(state.output_ids) > 0


def test_no_request_is_preempted_more_often_than_promised_and_all_end() -> None:
    # Answers of these lengths preempt one request six times where nothing is pinned.
    lengths = [7, 1, 20, 34, 37, 22, 19, 11, 23, 11, 10, 7, 26, 23, 11, 28, 25, 30, 32, 15, 12, 20, 34, 17]
    bench = Bench(
        num_blocks=40, block_size=1, max_total_tokens=40, max_rows=16, max_step_tokens=64, prefix_caching=True
    )
    requests = [make_request(i, [i], max_new_tokens=length) for i, length in enumerate(lengths)]
    for request in requests:
        bench.add(request)
    bench.run()
    assert [bench.tokens[r.id] for r in requests] == [expected_tokens(r) for r in requests]
    starts = Counter(int(state.prompt_ids[0]) for plan in bench.plans for state in plan.started)
    assert max(starts.values()) == MOST_PREEMPTIONS + 1


def test_a_cached_prefix_is_not_computed_again_but_its_last_token_is() -> None:
    bench = Bench(block_size=4)
    request = make_request(1, range(8), max_new_tokens=3)
    bench.add(request)
    bench.run()
    again = make_request(2, range(8), max_new_tokens=3)
    bench.add(again)
    bench.step()
    assert bench.outputs[-1].stats.cached_tokens == 4  # of 8: the last block must be computed for its logits
    assert bench.plans[-1].positions.tolist() == [4, 5, 6, 7]
    bench.run()
    assert bench.tokens[2] == bench.tokens[1] == expected_tokens(request)


@pytest.mark.parametrize("leave", ["complete", "aborted"])
def test_an_answer_that_is_sent_back_is_not_computed_again(leave: str) -> None:
    bench = Bench(block_size=4)
    bench.add(make_request(1, range(6), max_new_tokens=20 if leave == "aborted" else 11))
    for _ in range(11):
        bench.step()
    bench.scheduler.abort([1])
    bench.add(make_request(2, [*range(6), *bench.tokens[1], 99, 98]))
    bench.step()
    assert bench.outputs[-1].stats.cached_tokens == 16  # of 6 + 11: the last token's keys were never needed


def test_every_one_of_many_stop_ids_ends_its_request() -> None:
    requests = [make_request(1, [7], max_new_tokens=9), make_request(2, [8], max_new_tokens=9)]
    third = expected_tokens(requests[1])[2]
    stopping = msgspec.structs.replace(requests[1], stop_ids=(*range(1000, 1009), third))
    bench = Bench()
    bench.add(requests[0])
    bench.step()
    bench.add(stopping)
    bench.run()
    assert len(bench.tokens[1]) == 9
    assert bench.tokens[2] == expected_tokens(requests[1])[:3]
    assert bench.finish == {1: FinishReason.LENGTH, 2: FinishReason.STOP_ID}


@pytest.mark.parametrize("change", [{"cache_salt": "b"}, {"max_new_tokens": 30}, {"prompt_logprobs": True}])
def test_prefixes_are_shared_only_where_they_are_the_same_and_wanted(change: dict[str, Any]) -> None:
    bench = Bench(block_size=4, variant_length=20)
    bench.add(make_request(1, range(9), cache_salt="a"))
    bench.run()
    bench.add(make_request(2, range(9), **({"cache_salt": "a"} | change)))
    bench.run()
    assert sum(output.stats.cached_tokens for output in bench.outputs) == 0
    bench.add(make_request(3, range(9), cache_salt="a"))
    bench.run()
    assert sum(output.stats.cached_tokens for output in bench.outputs) == 8


def test_the_last_allowed_token_reports_the_length_even_where_it_is_a_stop_id() -> None:
    tokens = expected_tokens(make_request(0, [5, 6]))
    bench = Bench()
    bench.add(make_request(1, [5, 6], max_new_tokens=3, stop_ids=(tokens[2],)))
    bench.add(make_request(2, [5, 6], max_new_tokens=4, stop_ids=(tokens[2],)))
    bench.run()
    assert bench.finish == {1: FinishReason.LENGTH, 2: FinishReason.STOP_ID}
    assert bench.tokens[1] == bench.tokens[2] == tokens[:3]


@pytest.mark.parametrize("max_step_tokens", [1, 3, 64])
def test_log_probabilities_of_every_prompt_token_come_with_the_first_output(max_step_tokens: int) -> None:
    bench = Bench(max_step_tokens=max_step_tokens)
    for request_id in (1, 2):
        bench.add(make_request(request_id, range(7 * request_id), prompt_logprobs=request_id == 1))
    bench.run()
    assert list(bench.prompt_logprobs) == [1]
    first, *others = bench.prompt_logprobs[1]
    assert np.isnan(first)
    # The fake's log-probability of what follows a context does not depend on the target.
    whole = Bench(max_step_tokens=64)
    for length in range(1, 7):
        whole.add(make_request(length, range(length), max_new_tokens=1))
    whole.run()
    logprobs: dict[int, float] = {}
    for output in whole.outputs:
        ids = np.frombuffer(output.request_ids, np.int64).tolist()
        logprobs.update(zip(ids, np.frombuffer(output.logprobs, np.float32).tolist(), strict=True))
    assert others == [logprobs[length] for length in range(1, 7)]
    # The fake's only likely token is the target itself.
    assert bench.prompt_top == {1: {length: (length, logprobs[length]) for length in range(1, 7)}}


def test_a_resumed_request_numbers_its_tokens_from_where_it_was() -> None:
    tokens = expected_tokens(make_request(1, [9, 8, 7]))
    bench = Bench()
    bench.add(make_request(1, [9, 8, 7], output_ids=tokens[:5]))
    bench.run()
    assert bench.tokens[1] == tokens
    assert np.frombuffer(bench.outputs[0].indices, np.int32).tolist() == [5]


def test_unusable_logits_fail_their_request_alone_and_are_not_cached() -> None:
    bench = Bench(faults={200: "nan"}, block_size=4)
    bench.add(make_request(1, [*range(8), 200]))
    bench.add(make_request(2, range(30, 38)))
    bench.run()
    assert bench.failed == {1: "logits are not finite"}
    assert bench.tokens == {1: [], 2: expected_tokens(make_request(2, range(30, 38)))}
    bench.add(make_request(3, range(9)))
    bench.step()
    assert bench.outputs[-1].stats.cached_tokens == 0


def test_abort_frees_row_and_blocks_before_the_next_plan() -> None:
    bench = Bench(max_rows=1)
    bench.add(make_request(1, range(10)))
    bench.add(make_request(2, range(10)))
    bench.step()
    bench.scheduler.abort([1, 99])
    assert bench.allocator().num_free == 64
    bench.step()
    assert bench.outputs[-1].stats.started_ids == (2,)
    assert bench.plans[-1].ended == (0,)
    bench.scheduler.abort([2])
    assert bench.scheduler.idle
    assert bench.scheduler.plan() is None


@pytest.mark.parametrize("place", [0, 3, 4, 40])
def test_any_of_many_stop_ids_ends_a_request(place: int) -> None:
    tokens = expected_tokens(make_request(1, range(10)))
    others = [token for token in range(300, 341) if token not in tokens]
    stop_ids = (*others[:place], tokens[2], *others[place:])
    bench = Bench()
    bench.add(make_request(1, range(10), stop_ids=stop_ids))
    bench.run()
    assert bench.tokens[1] == tokens[:3]


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of arrivals, aborts and steps, over any cache and budget."""

    @initialize(
        num_blocks=st.integers(6, 20),
        block_size=st.sampled_from([1, 2, 4]),
        max_rows=st.integers(1, 5),
        max_step_tokens=st.integers(1, 20),
        prefix_caching=st.booleans(),
        variant_length=st.sampled_from([8, 1000]),
    )
    def begin(self, **options: Any) -> None:
        self.capacity = options["num_blocks"] * options["block_size"]
        self.bench = Bench(max_total_tokens=self.capacity, **options)
        self.requests: dict[int, EngineRequest] = {}
        self.aborted: set[int] = set()

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        length = data.draw(st.integers(1, min(self.capacity - 1, 12)))
        # Few distinct ids, so that prompts share prefixes.
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
        max_new_tokens = data.draw(st.integers(1, min(self.capacity - length, 20)))
        variant = self.bench.runner.rope_variant(length + max_new_tokens)
        request = make_request(len(self.requests), prompt, max_new_tokens, seed=data.draw(st.integers(0, 1)))
        tokens = expected_tokens(request, variant)
        stop_ids = (tokens[-1],) if data.draw(st.booleans()) else ()
        done = data.draw(st.integers(0, 3))
        output_ids = tokens[:done] if done < len(tokens) and not set(tokens[:done]) & set(stop_ids) else []
        request = make_request(
            request.id, prompt, max_new_tokens, seed=request.sampling.seed, stop_ids=stop_ids, output_ids=output_ids,
            prompt_logprobs=data.draw(st.integers(0, 4)) == 0, cache_salt=data.draw(st.sampled_from(["", "", "salt"])),
        )  # fmt: skip
        self.requests[request.id] = request
        self.bench.add(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        if request_id not in self.bench.finish:
            self.aborted.add(request_id)
        self.bench.scheduler.abort([request_id])

    @rule(count=st.integers(1, 10))
    def step(self, count: int) -> None:
        for _ in range(count):
            idle = self.bench.scheduler.idle
            assert self.bench.step() is not idle, "work was pending, yet nothing was planned"

    @invariant()
    def no_block_is_lost_or_shared_wrongly(self) -> None:
        scheduler, allocator = self.bench.scheduler, self.bench.allocator()
        borrowed: Counter[int] = Counter()
        content: dict[int, tuple[Any, ...]] = {}
        for request in scheduler._running.values():
            table = scheduler._rows.block_tables[request.row, : len(request.blocks)].tolist()
            assert table == request.blocks
            borrowed.update(request.blocks)
            computed = int(scheduler._rows.num_computed[request.row])
            tokens = scheduler._rows.tokens(request.row).tolist()
            for index, block in enumerate(request.blocks):
                end = (index + 1) * self.bench.runner.block_size
                mine = (request.spec.cache_salt, request.rope_variant, *tokens[:end]) if end <= computed else (request,)
                assert content.setdefault(block, mine) == mine, f"block {block} holds two different prefixes"
        assert {block: allocator.borrowers(block) for block in borrowed} == dict(borrowed)
        assert allocator.num_free + len(borrowed) == allocator.num_lendable
        for content, request_id in allocator._promised.items():
            request = scheduler._running[request_id]  # who stopped running promises nothing
            done = int(scheduler._rows.num_computed[request.row]) // self.bench.runner.block_size
            assert content in request.known_hashes[done:], "a promise that is kept is no promise any more"
        assert len(scheduler._free_rows) + len(scheduler._running) == self.bench.runner.max_rows

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.run()
        assert self.bench.allocator().num_free == self.bench.runner.num_blocks
        assert not self.bench.allocator()._promised
        for request in self.requests.values():
            variant = self.bench.runner.rope_variant(len(request.prompt_ids) // 4 + request.max_new_tokens)
            expected = expected_tokens(request, variant)
            tokens = self.bench.tokens[request.id]
            if request.id in self.aborted:
                assert tokens == expected[: len(tokens)]
            else:
                assert tokens == expected
                assert request.id in self.bench.finish
                assert (request.id in self.bench.prompt_logprobs) == request.prompt_logprobs


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSchedulerMachine = SchedulerMachine.TestCase
