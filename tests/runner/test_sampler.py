"""A choice follows from a row's logits and its request, whoever else is in the batch."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from tgi import kernels
from tgi.runner.plan import Float32, Int32, RowState
from tgi.runner.sampler import GRAMMAR_FAILED, NOTHING_LEFT, Choice, Sampler, draw, top_tokens
from tgi.sampling import NOT_NUMBERS, SamplingParams

VOCAB = 1003  # no multiple of any vector's width
MIXTURE = (
    SamplingParams(),
    SamplingParams(do_sample=True, seed=1),
    SamplingParams(do_sample=True, seed=2, temperature=0.7, top_p=0.9),
    SamplingParams(do_sample=True, seed=3, top_k=10, sequence_index=1),
    SamplingParams(do_sample=True, seed=2**64 - 1, typical_p=0.8, repetition_penalty=1.3),
    SamplingParams(repetition_penalty=1.5, frequency_penalty=0.3, presence_penalty=-0.4),
    SamplingParams(do_sample=True, seed=5, min_p=0.05, logit_bias={5: 2.0, 7: -3.0}),
    SamplingParams(logit_bias={11: 50.0}),
    SamplingParams(do_sample=True, seed=8, watermark_gamma=0.5, watermark_delta=4.0),
    SamplingParams(watermark_gamma=0.25, watermark_delta=2.0, no_repeat_ngram_size=2),
    SamplingParams(bad_words=((5,), (9, 30), (7, 9, 31)), no_repeat_ngram_size=1),
    SamplingParams(do_sample=True, seed=9, allowed_token_ids=tuple(range(0, 900, 7)), min_tokens=4, withheld=(0, 7)),
    SamplingParams(grammar="5 6 7 8 9 10 11 12 13"),
    SamplingParams(do_sample=True, seed=10, top_k=50, grammar="even"),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    kernels.configure(threads=1)


def state(row: int, params: SamplingParams, output: tuple[int, ...] = (), top: int = 0) -> RowState:
    prompt = np.array([5, 7, 9], dtype=np.int32)
    return RowState(row, params, prompt, np.array(output, dtype=np.int32), top, prompt_logprobs=False, stop_ids=(2,))


class Numbers:
    """Grammars for tests: "even" allows even ids; a list of ids allows those, one after the other; others fail."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def matcher(self, grammar: str) -> Numbers.Matcher:
        self.threads.add(threading.current_thread().name)
        return Numbers.Matcher(None if grammar == "even" else [int(word) for word in grammar.split()])

    class Matcher:
        def __init__(self, ids: list[int] | None) -> None:
            self.ids = ids

        def fill(self, bitmask: Int32) -> None:
            for token_id in range(0, VOCAB, 2) if self.ids is None else self.ids[:1]:
                bitmask[token_id // 32] |= np.array(1 << token_id % 32, np.uint32).view(np.int32)

        def accept(self, token_id: int) -> None:
            if self.ids is not None and token_id != self.ids.pop(0):
                raise ValueError("not what the grammar says")


def random_logits(rows: int, seed: int = 0, spread: float = 3.0) -> Float32:
    noise: Float32 = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)).numpy()
    return noise * np.float32(spread)


def sample_one(params: SamplingParams, logits: Float32, output: tuple[int, ...] = (), top: int = 0) -> Choice:
    sampler = Sampler(logits.shape[-1], Numbers())
    sampler.begin([state(0, params, output, top)])
    return sampler.sample(logits.copy()[None], [0])


def test_rows_choose_alone_what_they_choose_together() -> None:
    count = 3 * len(MIXTURE)
    logits = random_logits(count)
    params = [msgspec.structs.replace(MIXTURE[row % len(MIXTURE)], seed=row) for row in range(count)]
    outputs = [(5,) if params[row].grammar.startswith("5") else (row,) for row in range(count)]
    together = Sampler(VOCAB, Numbers())
    together.begin(state(row, params[row], outputs[row], top=3) for row in range(count))
    order = np.random.default_rng(0).permutation(count)
    together.prepare_masks(order.tolist())

    choice = together.sample(logits[order], order.tolist())

    assert not choice.failed
    for entry, row in enumerate(order.tolist()):
        alone = sample_one(params[row], logits[row], outputs[row], top=3)
        assert choice.token_ids[entry] == alone.token_ids[0]
        assert choice.logprobs[entry].tobytes() == alone.logprobs[0].tobytes()
        assert choice.top[entry] == alone.top[0]


@pytest.mark.parametrize("params", MIXTURE)
def test_a_row_rebuilt_from_its_output_goes_on_as_if_nothing_had_happened(params: SamplingParams) -> None:
    steps = [random_logits(1, seed)[0] for seed in range(8)]
    steady = Sampler(VOCAB, Numbers())
    steady.begin([state(0, params)])
    expected = [int(steady.sample(step.copy()[None], [0]).token_ids[0]) for step in steps]

    rebuilt = [int(sample_one(params, step, tuple(expected[:count])).token_ids[0]) for count, step in enumerate(steps)]

    assert rebuilt == expected


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    scores = np.array([1.0, -math.inf, 0.0, 2.0, -1.0], np.float32)
    probabilities = torch.softmax(torch.from_numpy(scores).double(), dim=-1).numpy()
    count = 2000

    drawn = np.bincount([draw(scores, (index + 0.5) / count)[0] for index in range(count)], minlength=5)

    np.testing.assert_allclose(drawn / count, probabilities, rtol=0, atol=1 / count)


def test_a_drawn_token_comes_with_its_log_probability() -> None:
    scores = random_logits(1)[0]
    expected = torch.log_softmax(torch.from_numpy(scores).double(), dim=-1)

    for noise in np.linspace(0, 0.999, 20):
        token_id, logprob = draw(scores, float(noise))
        assert logprob == pytest.approx(float(expected[token_id]), abs=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53])
def test_a_removed_token_is_never_drawn(noise: float) -> None:
    scores = np.full(VOCAB, -math.inf, np.float32)
    scores[[40, 41, 900]] = [0.0, -30.0, 0.0]

    token_id, logprob = draw(scores, noise)

    assert token_id in (40, 41, 900)
    assert math.isfinite(logprob)


def test_the_seed_decides_and_the_position_varies_the_choice() -> None:
    logits = np.zeros(VOCAB, np.float32)
    params = SamplingParams(do_sample=True, seed=9)

    def choose(params: SamplingParams, output: tuple[int, ...] = ()) -> int:
        return int(sample_one(params, logits, output).token_ids[0])

    assert choose(params) == choose(params)
    assert len({choose(params, (1,) * count) for count in range(8)}) == 8
    assert choose(params) != choose(msgspec.structs.replace(params, seed=10))
    assert choose(params) != choose(msgspec.structs.replace(params, sequence_index=1))


def test_penalties_count_the_tokens_chosen_since() -> None:
    sampler = Sampler(4)
    sampler.begin([state(0, SamplingParams(frequency_penalty=1.0))])
    logits = np.array([[2.5, 1.0, 0.0, -5.0]], np.float32)

    chosen = [int(sampler.sample(logits.copy(), [0]).token_ids[0]) for _ in range(4)]

    assert chosen == [0, 0, 1, 0]  # token 0 scores 2.5, 1.5, 0.5, 0.5; token 1 scores 1.0, then 0.0


def test_repetition_penalty_covers_the_prompt() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[[5, 20]] = [2.0, 1.5]  # token 5 is in the prompt

    assert sample_one(SamplingParams(repetition_penalty=2.0), logits).token_ids.tolist() == [20]


@pytest.mark.parametrize("params", MIXTURE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_without_a_distribution_fails_alone(params: SamplingParams, bad: float) -> None:
    logits = random_logits(3)
    sampler = Sampler(VOCAB, Numbers())
    sampler.begin(state(row, params) for row in range(3))
    expected = sample_one(params, logits[2])
    constrained = params.no_repeat_ngram_size or params.bad_words or params.allowed_token_ids or params.grammar
    logits[1, slice(None) if constrained or bad == -math.inf else 17] = bad

    choice = sampler.sample(logits, [0, 1, 2])

    assert list(choice.failed) == [1]
    assert choice.failed[1] == (NOTHING_LEFT if constrained and bad == -math.inf else NOT_NUMBERS)
    assert choice.token_ids[2] == expected.token_ids[0]


def test_a_failed_row_remembers_nothing() -> None:
    params = SamplingParams(do_sample=True, seed=1, presence_penalty=1.0)
    sampler = Sampler(VOCAB, Numbers())
    sampler.begin([state(0, params)])
    sampler.sample(np.full((1, VOCAB), math.nan, np.float32), [0])

    assert sampler.sample(random_logits(1), [0]).token_ids == sample_one(params, random_logits(1)[0]).token_ids


def test_a_row_whose_constraints_rule_out_every_token_fails_alone() -> None:
    sampler = Sampler(VOCAB)
    sampler.begin([
        state(0, SamplingParams(allowed_token_ids=(4,), bad_words=((4,),), temperature=0.5)),
        state(1, SamplingParams(do_sample=True, allowed_token_ids=(4,), no_repeat_ngram_size=1), (4,)),
        state(2, SamplingParams(allowed_token_ids=(4,), min_tokens=3, withheld=(4,))),
    ])  # fmt: skip

    choice = sampler.sample(random_logits(3), [0, 1, 2])

    assert choice.failed == {0: NOTHING_LEFT, 1: NOTHING_LEFT}
    assert choice.token_ids[2] == 4  # ending is better than failing


@pytest.mark.parametrize("grammar", ["no such grammar", "4 5"])
def test_a_grammar_that_cannot_be_followed_fails_its_row_alone(grammar: str) -> None:
    sampler = Sampler(VOCAB, Numbers())
    sampler.begin([state(0, SamplingParams(grammar="9 8"), (9,)), state(1, SamplingParams(grammar=grammar), (7,))])
    logits = random_logits(2)
    sampler.prepare_masks([0, 1])

    choice = sampler.sample(logits.copy(), [0, 1])

    assert choice.failed == {1: GRAMMAR_FAILED}
    assert choice.token_ids.tolist() == [8, 0]
    sampler.end([1])
    sampler.begin([state(1, SamplingParams(grammar="4 5"))])
    assert sampler.sample(logits[1:].copy(), [1]).token_ids.tolist() == [4]


def test_an_engine_without_grammars_fails_only_who_has_one() -> None:
    sampler = Sampler(VOCAB)
    sampler.begin([state(0, SamplingParams(grammar="even")), state(1, SamplingParams())])

    assert sampler.sample(random_logits(2), [0, 1]).failed == {0: GRAMMAR_FAILED}


def test_a_complete_grammar_leaves_only_stop_ids() -> None:
    sampler = Sampler(VOCAB, Numbers())
    sampler.begin([state(0, SamplingParams(grammar="6 4"))])

    assert [int(sampler.sample(random_logits(1, n), [0]).token_ids[0]) for n in range(3)] == [6, 4, 2]


def test_masks_are_found_in_threads_of_their_own() -> None:
    numbers = Numbers()
    sampler = Sampler(VOCAB, numbers)
    sampler.begin([state(0, SamplingParams(grammar="even"))])
    sampler.prepare_masks([0])
    sampler.sample(random_logits(1), [0])

    assert numbers.threads
    assert threading.current_thread().name not in numbers.threads


def test_a_mask_that_was_prepared_for_a_step_that_failed_is_forgotten_with_its_row() -> None:
    sampler = Sampler(VOCAB, Numbers())
    sampler.begin([state(0, SamplingParams(grammar="6"))])
    sampler.prepare_masks([0])
    sampler.end([0])
    sampler.begin([state(0, SamplingParams(grammar="8"))])

    assert sampler.sample(random_logits(1), [0]).token_ids.tolist() == [8]


def test_a_row_that_never_began_may_end() -> None:
    Sampler(VOCAB).end((3,))


def test_a_row_begins_anew() -> None:
    sampler = Sampler(VOCAB, Numbers())
    sampler.begin([state(0, SamplingParams(do_sample=True, seed=1))])
    sampler.end([0])
    sampler.begin([replace(state(0, SamplingParams()), output_ids=np.array([4], dtype=np.int32))])

    choice = sampler.sample(random_logits(1), [0])

    assert choice.token_ids.tolist() == random_logits(1).argmax(axis=-1).tolist()


def decode(choice: Choice, entry: int = 0) -> tuple[list[int], list[float]]:
    top = choice.top[entry]
    return np.frombuffer(top.token_ids, "<i4").tolist(), np.frombuffer(top.logprobs, "<f4").tolist()


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(do_sample=True, seed=4)])
def test_top_tokens_are_the_most_likely_ones(params: SamplingParams) -> None:
    logits = random_logits(1)[0]
    expected = torch.log_softmax(torch.from_numpy(logits), dim=-1).topk(4)

    choice = sample_one(params, logits, top=4)

    ids, logprobs = decode(choice)
    assert ids == expected.indices.tolist()
    assert logprobs == pytest.approx(expected.values.tolist(), abs=2e-5)
    if int(choice.token_ids[0]) in ids:
        assert logprobs[ids.index(int(choice.token_ids[0]))] == choice.logprobs[0]


def test_top_tokens_include_ties_and_never_removed_tokens() -> None:
    tied = top_tokens(np.array([1.0, 3.0, 1.0, 0.0, 1.0], np.float32), 2, token_id=1, logprob=-0.5)
    cut = sample_one(SamplingParams(do_sample=True, top_k=2), random_logits(1)[0], top=5)

    assert np.frombuffer(tied.token_ids, "<i4").tolist() == [1, 0, 2, 4]
    assert np.frombuffer(tied.logprobs, "<f4").tolist() == [-0.5, -2.5, -2.5, -2.5]
    assert len(decode(cut)[0]) == 2
