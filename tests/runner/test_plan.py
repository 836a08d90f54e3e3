"""The contract between the engine and the runner."""

from __future__ import annotations

import numpy as np

from tgi.runner.plan import StepPlan


def test_the_step_after_one_in_which_all_decode_is_that_step_a_position_further() -> None:
    rows = np.arange(2, dtype=np.int32)
    plan = StepPlan(
        input_ids=np.array([7, 8], np.int32), positions=np.array([3, 9], np.int32),
        slot_mapping=np.array([19, 41], np.int64), query_starts=np.arange(3, dtype=np.int32),
        context_lens=np.array([4, 10], np.int32), block_tables=np.array([[1, 0], [2, 3]], np.int32),
        rope_variants=np.zeros(2, np.int32), logits_indices=rows, logits_rows=rows + 4, sample=np.ones(2, np.bool_),
        targets=np.full(2, -1, np.int32), ended=(1,),
    )  # fmt: skip
    token_ids, slots, tables = np.array([5, 6], np.int32), plan.slot_mapping + 1, plan.block_tables
    following = plan.repeated(token_ids, slots, tables)
    assert following.input_ids is token_ids
    assert following.positions.tolist() == [4, 10]
    assert following.context_lens.tolist() == [5, 11]
    assert following.context_lens.dtype == np.int32
    assert following.logits_rows.tolist() == [4, 5]
    assert (following.started, following.ended) == ((), ())  # newcomers and leavers are told once
    assert plan.context_lens.tolist() == [4, 10]  # a plan in flight is not touched
