"""A choice follows from a row's logits and its request, whoever else is in the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from tgi import kernels
from tgi.runner.plan import RowState
from tgi.runner.sampler import Choice, Sampler, draw, top_tokens
from tgi.sampling import SamplingParams

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
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    kernels.configure(threads=1)


def state(row: int, params: SamplingParams, output: tuple[int, ...] = (), top: int = 0) -> RowState:
    prompt = np.array([5, 7, 9], dtype=np.int32)
    return RowState(row, params, prompt, np.array(output, dtype=np.int32), top, prompt_logprobs=False)


def random_logits(rows: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


def sample_one(params: SamplingParams, logits: Tensor, output: tuple[int, ...] = (), top: int = 0) -> Choice:
    sampler = Sampler(logits.shape[-1])
    sampler.begin([state(0, params, output, top)])
    return sampler.sample(logits.clone()[None], [0])


def test_rows_choose_alone_what_they_choose_together() -> None:
    logits = random_logits(24)
    params = [msgspec.structs.replace(MIXTURE[row % len(MIXTURE)], seed=row) for row in range(24)]
    together = Sampler(VOCAB)
    together.begin(state(row, params[row], (row,), top=3) for row in range(24))
    order = np.random.default_rng(0).permutation(24)

    choice = together.sample(logits[order], order.tolist())

    for entry, row in enumerate(order.tolist()):
        alone = sample_one(params[row], logits[row], (row,), top=3)
        assert choice.token_ids[entry] == alone.token_ids[0]
        assert choice.logprobs[entry].tobytes() == alone.logprobs[0].tobytes()
        assert choice.top[entry] == alone.top[0]


@pytest.mark.parametrize("params", MIXTURE)
def test_a_row_rebuilt_from_its_output_goes_on_as_if_nothing_had_happened(params: SamplingParams) -> None:
    steps = [random_logits(1, seed)[0] for seed in range(8)]
    steady = Sampler(VOCAB)
    steady.begin([state(0, params)])
    expected = [int(steady.sample(step.clone()[None], [0]).token_ids[0]) for step in steps]

    rebuilt = [int(sample_one(params, step, tuple(expected[:count])).token_ids[0]) for count, step in enumerate(steps)]

    assert rebuilt == expected


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    scores = torch.tensor([1.0, -math.inf, 0.0, 2.0, -1.0])
    probabilities = torch.softmax(scores.double(), dim=-1).numpy()
    count = 2000

    drawn = np.bincount([draw(scores, (index + 0.5) / count)[0] for index in range(count)], minlength=5)

    np.testing.assert_allclose(drawn / count, probabilities, rtol=0, atol=1 / count)


def test_a_drawn_token_comes_with_its_log_probability() -> None:
    scores = random_logits(1)[0]
    expected = torch.log_softmax(scores.double(), dim=-1)

    for noise in np.linspace(0, 0.999, 20):
        token_id, logprob = draw(scores, float(noise))
        assert logprob == pytest.approx(float(expected[token_id]), abs=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53])
def test_a_removed_token_is_never_drawn(noise: float) -> None:
    scores = torch.full((VOCAB,), -math.inf)
    scores[[40, 41, 900]] = torch.tensor([0.0, -30.0, 0.0])

    token_id, logprob = draw(scores, noise)

    assert token_id in (40, 41, 900)
    assert math.isfinite(logprob)


def test_the_seed_decides_and_the_position_varies_the_choice() -> None:
    logits = torch.zeros(VOCAB)
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
    logits = torch.tensor([[2.5, 1.0, 0.0, -5.0]])

    chosen = [int(sampler.sample(logits.clone(), [0]).token_ids[0]) for _ in range(4)]

    assert chosen == [0, 0, 1, 0]  # token 0 scores 2.5, 1.5, 0.5, 0.5; token 1 scores 1.0, then 0.0


def test_repetition_penalty_covers_the_prompt() -> None:
    logits = torch.zeros(VOCAB)
    logits[[5, 20]] = torch.tensor([2.0, 1.5])  # token 5 is in the prompt

    assert sample_one(SamplingParams(repetition_penalty=2.0), logits).token_ids.tolist() == [20]


@pytest.mark.parametrize("params", MIXTURE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_without_a_distribution_fails_alone(params: SamplingParams, bad: float) -> None:
    logits = random_logits(3)
    sampler = Sampler(VOCAB)
    sampler.begin(state(row, params) for row in range(3))
    expected = sample_one(params, logits[2])
    if bad == -math.inf:
        logits[1] = bad
    else:
        logits[1, 17] = bad

    choice = sampler.sample(logits, [0, 1, 2])

    assert list(choice.failed) == [1]
    assert "not numbers" in choice.failed[1]
    assert choice.token_ids[2] == expected.token_ids[0]


def test_a_failed_row_remembers_nothing() -> None:
    params = SamplingParams(do_sample=True, seed=1, presence_penalty=1.0)
    sampler = Sampler(VOCAB)
    sampler.begin([state(0, params)])
    sampler.sample(torch.full((1, VOCAB), math.nan), [0])

    assert sampler.sample(random_logits(1), [0]).token_ids == sample_one(params, random_logits(1)[0]).token_ids


def test_a_row_that_never_began_may_end() -> None:
    Sampler(VOCAB).end((3,))


def test_a_row_begins_anew() -> None:
    sampler = Sampler(VOCAB)
    sampler.begin([state(0, SamplingParams(do_sample=True, seed=1))])
    sampler.end([0])
    sampler.begin([replace(state(0, SamplingParams()), output_ids=np.array([4], dtype=np.int32))])

    choice = sampler.sample(random_logits(1), [0])

    assert choice.token_ids.tolist() == random_logits(1).argmax(dim=-1).tolist()


def decode(choice: Choice, entry: int = 0) -> tuple[list[int], list[float]]:
    top = choice.top[entry]
    return np.frombuffer(top.token_ids, "<i4").tolist(), np.frombuffer(top.logprobs, "<f4").tolist()


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(do_sample=True, seed=4)])
def test_top_tokens_are_the_most_likely_ones(params: SamplingParams) -> None:
    logits = random_logits(1)[0]
    expected = torch.log_softmax(logits, dim=-1).topk(4)

    choice = sample_one(params, logits, top=4)

    ids, logprobs = decode(choice)
    assert ids == expected.indices.tolist()
    assert logprobs == pytest.approx(expected.values.tolist(), abs=2e-5)
    if int(choice.token_ids[0]) in ids:
        assert logprobs[ids.index(int(choice.token_ids[0]))] == choice.logprobs[0]


def test_top_tokens_include_ties_and_never_removed_tokens() -> None:
    tied = top_tokens(torch.tensor([1.0, 3.0, 1.0, 0.0, 1.0]), 2, token_id=1, logprob=-0.5)
    cut = sample_one(SamplingParams(do_sample=True, top_k=2), random_logits(1)[0], top=5)

    assert np.frombuffer(tied.token_ids, "<i4").tolist() == [1, 0, 2, 4]
    assert np.frombuffer(tied.logprobs, "<f4").tolist() == [-0.5, -2.5, -2.5, -2.5]
    assert len(decode(cut)[0]) == 2
