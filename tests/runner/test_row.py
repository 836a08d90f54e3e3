"""A row applies exactly the processors its request asks for, in one order, to what its tokens say by then."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers

from tgi.runner.plan import Float32, RowState
from tgi.runner.row import History, SamplingRow
from tgi.sampling import SamplingParams

VOCAB = 503
PROMPT = [5, 7, 9, 5, 7]
OUTPUT = [11, 12, 11, 12, 9, 5]

# What a request asks for, and what transformers does for it; the watermark comes first, as in TGI.
CHAINS: list[tuple[SamplingParams, list[Any]]] = [
    (SamplingParams(), []),
    (
        SamplingParams(watermark_gamma=0.25, watermark_delta=2.0, repetition_penalty=1.3, temperature=0.7),
        [
            transformers.WatermarkLogitsProcessor(VOCAB, "cpu", greenlist_ratio=0.25, bias=2.0),
            transformers.RepetitionPenaltyLogitsProcessor(1.3),
            transformers.TemperatureLogitsWarper(0.7),
        ],
    ),
    (
        SamplingParams(no_repeat_ngram_size=2, bad_words=((3,), (9, 5, 20), (5, 21)), top_k=40),
        [
            transformers.NoRepeatNGramLogitsProcessor(2),
            transformers.NoBadWordsLogitsProcessor([[3], [9, 5, 20], [5, 21]]),
            transformers.TopKLogitsWarper(40),
        ],
    ),
    (
        SamplingParams(allowed_token_ids=(1, 2, 3, 50, 51), min_tokens=7, withheld=(2, 50), min_p=0.01, top_p=0.95),
        [
            transformers.PrefixConstrainedLogitsProcessor(lambda batch, ids: [1, 2, 3, 50, 51], 1),
            transformers.MinNewTokensLengthLogitsProcessor(len(PROMPT), 7, [2, 50]),
            transformers.TopPLogitsWarper(0.95),
            transformers.MinPLogitsWarper(0.01),
        ],
    ),
    (
        SamplingParams(no_repeat_ngram_size=1, min_tokens=6, withheld=(30,), typical_p=0.9, temperature=1.4),
        [
            transformers.NoRepeatNGramLogitsProcessor(1),
            transformers.MinNewTokensLengthLogitsProcessor(len(PROMPT), 6, [30]),  # 6 of 6: over
            transformers.TemperatureLogitsWarper(1.4),
            transformers.TypicalLogitsWarper(0.9),
        ],
    ),
]


def state(params: SamplingParams, output: list[int], row: int = 0) -> RowState:
    prompt = np.array(PROMPT, np.int32)
    return RowState(row, params, prompt, np.array(output, np.int32), 0, prompt_logprobs=False, stop_ids=(2,))


def random_scores(seed: int = 0) -> Float32:
    scores: Float32 = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)).numpy() * np.float32(3)
    return scores


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chain", range(len(CHAINS)))
@pytest.mark.parametrize("rebuilt", [False, True])
def test_processors_of_a_row_are_those_of_transformers(chain: int, seed: int, rebuilt: bool) -> None:
    params, theirs = CHAINS[chain]
    ids = torch.tensor([PROMPT + OUTPUT])
    expected = torch.from_numpy(random_scores(seed))
    for processor in theirs:
        expected = processor(ids, expected)
    row = SamplingRow.build(state(params, OUTPUT if rebuilt else []), VOCAB, None)
    for token_id in [] if rebuilt else OUTPUT:
        row.append(token_id)
    scores = random_scores(seed)

    row.process(scores)

    torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=1e-6, atol=0)


def test_stop_ids_are_withheld_until_the_minimum_is_reached() -> None:
    row = SamplingRow.build(state(SamplingParams(min_tokens=2, withheld=(2, 4)), []), VOCAB, None)
    removed = []
    for _ in range(3):
        scores = random_scores()
        row.process(scores)
        removed.append(np.flatnonzero(np.isinf(scores[0])).tolist())
        row.append(9)

    assert removed == [[2, 4], [2, 4], []]


def test_ids_without_a_logit_mean_nothing() -> None:
    params = SamplingParams(
        repetition_penalty=2.0, presence_penalty=1.0, bad_words=((VOCAB,), (5, VOCAB + 7)), min_tokens=9,
        allowed_token_ids=(1, VOCAB), withheld=(VOCAB,), no_repeat_ngram_size=1,
    )  # fmt: skip
    row = SamplingRow.build(state(params, [VOCAB + 3]), VOCAB, None)
    scores = random_scores()

    row.process(scores)

    assert np.flatnonzero(scores[0] > -np.inf).tolist() == [1]


def test_a_history_grows_beyond_what_it_began_with() -> None:
    history = History(state(SamplingParams(), OUTPUT))
    for token_id in range(1000):
        history.append(token_id)

    assert history.ids.tolist() == PROMPT + OUTPUT + list(range(1000))


@pytest.mark.parametrize(("params", "_"), CHAINS)
def test_only_what_can_rule_out_every_token_counts_as_a_constraint(params: SamplingParams, _: list[Any]) -> None:
    row = SamplingRow.build(state(params, []), VOCAB, None)

    harmless = msgspec.structs.replace(params, no_repeat_ngram_size=0, bad_words=(), allowed_token_ids=())
    assert row.constrained == (harmless != params)
