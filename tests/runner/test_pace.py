"""The size of the next step follows from what past ones took."""

from __future__ import annotations

from tgi.runner.pace import LEAST_PROMPT_TOKENS, PATIENCE_S, PROMPT_S, STRETCH, Pace


def learned(decode_s: float, token_s: float, *, most: int = 256, decoding: int = 4) -> Pace:
    """A pace that has seen a prompt alone, and then steps that only decode."""
    pace = Pace(most)
    pace.learn(decoding=1, prompts=0, decode_tokens=0, prefill_tokens=100, step_s=100 * token_s)
    pace.learn(decoding=decoding, prompts=0, decode_tokens=decoding, prefill_tokens=0, step_s=decode_s)
    return pace


def test_a_prompt_alone_gets_the_whole_budget() -> None:
    pace = learned(0.02, 0.001)
    pace.learn(decoding=0, prompts=0, decode_tokens=4, prefill_tokens=0, step_s=0.02)
    assert pace.step_tokens() == 256


def test_a_step_with_a_prompt_takes_little_longer_than_one_without() -> None:
    pace = learned(0.4, 0.005)
    assert pace.step_tokens() == 4 + 60
    assert 0.4 + 0.005 * (pace.step_tokens() - 4) <= 1.75 * 0.4 + 1e-9


def wait(pace: Pace, seconds: float, *, decoding: int = 4, prompts: int = 1) -> int:
    """Let `prompts` wait through steps of 10 tokens of a prompt; returns the budget after so long."""
    for _ in range(round(seconds / 0.02)):
        pace.learn(decoding, prompts, decode_tokens=decoding, prefill_tokens=10, step_s=0.02)
    return pace.step_tokens()


def test_a_step_stays_as_short_while_a_prompt_has_waited_little() -> None:
    pace = learned(0.02, 0.001)
    assert wait(pace, PATIENCE_S / 2) <= 4 + (STRETCH - 1) * 0.02 / 0.001


def test_pieces_grow_while_prompts_wait_and_no_further_than_a_crowds() -> None:
    pace = learned(0.01, 0.001)
    budgets = [wait(pace, PATIENCE_S) for _ in range(20)]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[2] < budgets[4] < budgets[-1] == 4 + PROMPT_S / 0.001


def test_pieces_are_small_again_after_nobody_waited() -> None:
    pace = learned(0.01, 0.001)
    small = pace.step_tokens()
    assert wait(pace, 5 * PATIENCE_S) > small
    pace.learn(decoding=4, prompts=0, decode_tokens=4, prefill_tokens=0, step_s=0.01)
    assert wait(pace, PATIENCE_S / 2) == small


def test_more_or_fewer_requests_than_measured_change_what_a_step_takes() -> None:
    pace = learned(0.01, 0.001)
    pace.learn(decoding=24, prompts=1, decode_tokens=4, prefill_tokens=10, step_s=0.02)
    assert pace.step_tokens() == 24 + int((STRETCH - 1) * 0.03 / 0.001)
    pace = learned(0.4, 0.005, decoding=32)
    pace.learn(decoding=1, prompts=1, decode_tokens=32, prefill_tokens=10, step_s=0.45)
    assert pace.step_tokens() == 1 + int((STRETCH - 1) * (0.4 - 31 * 0.005) / 0.005)


def test_a_prompt_goes_on_however_slow_its_tokens_are() -> None:
    assert learned(0.001, 0.1).step_tokens() == 4 + LEAST_PROMPT_TOKENS


def test_the_budget_is_never_exceeded() -> None:
    assert learned(10.0, 0.001).step_tokens() == 256


def test_nothing_is_held_back_before_anything_was_measured() -> None:
    pace = Pace(256)
    pace.learn(decoding=3, prompts=0, decode_tokens=2, prefill_tokens=50, step_s=0.1)
    assert pace.step_tokens() == 256


def test_what_prompts_cost_is_learnt_beside_decoding_requests_too() -> None:
    pace = learned(0.4, 0.005)
    for _ in range(100):
        pace.learn(decoding=4, prompts=1, decode_tokens=4, prefill_tokens=10, step_s=0.4 + 10 * 0.01)
    assert pace.step_tokens() in (4 + 29, 4 + 30)


def test_decoding_of_other_numbers_of_requests_teaches_nothing_about_prompts() -> None:
    pace = learned(0.04, 0.001, decoding=1)
    before = pace.step_tokens() - 1
    for _ in range(10):  # 30 rows take longer than one: that is not the prompt's doing
        pace.learn(decoding=30, prompts=1, decode_tokens=30, prefill_tokens=10, step_s=0.01 * PATIENCE_S)
    pace.learn(decoding=1, prompts=1, decode_tokens=30, prefill_tokens=10, step_s=0.01 * PATIENCE_S)
    assert pace.step_tokens() - 1 == before


def test_prompts_get_more_while_most_requests_wait_for_their_first_token() -> None:
    pace = learned(0.01, 0.001)
    pace.learn(decoding=4, prompts=12, decode_tokens=4, prefill_tokens=60, step_s=0.07)
    assert pace.step_tokens() == 4 + 3 * PROMPT_S / 0.001


def test_a_crowd_of_prompts_gets_much_of_every_step_until_all_have_begun() -> None:
    pace = learned(0.01, 0.001)
    small = pace.step_tokens()
    pace.learn(decoding=4, prompts=5, decode_tokens=4, prefill_tokens=60, step_s=0.07)
    pace.learn(decoding=4, prompts=1, decode_tokens=4, prefill_tokens=60, step_s=0.07)
    assert pace.step_tokens() == 4 + PROMPT_S / 0.001
    pace.learn(decoding=4, prompts=0, decode_tokens=4, prefill_tokens=0, step_s=0.01)
    pace.learn(decoding=4, prompts=1, decode_tokens=4, prefill_tokens=0, step_s=0.01)
    assert pace.step_tokens() == small


def test_few_prompts_are_no_crowd_beside_fewer_that_decode() -> None:
    pace = learned(0.02, 0.001, decoding=1)
    small = pace.step_tokens()
    pace.learn(decoding=1, prompts=3, decode_tokens=1, prefill_tokens=10, step_s=0.03)
    assert pace.step_tokens() == small


def test_prompts_that_came_one_by_one_are_no_crowd() -> None:
    pace = learned(0.02, 0.001)
    wait(pace, PATIENCE_S)
    before = pace.step_tokens()
    pace.learn(decoding=1, prompts=5, decode_tokens=4, prefill_tokens=10, step_s=0.03)
    assert pace.step_tokens() <= before
