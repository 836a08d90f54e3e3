"""In one batch, every row is processed as its own request asks, as transformers (or the paper) does it by itself.

Random logits go through the sampler in one mixed batch, which changes them in place; each row is then compared with
what the references make of it alone. All processors are in the batch, single and combined, over rows of different
histories and in random order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from tgi import kernels
from tgi.runner.plan import RowState
from tgi.runner.sampler import Sampler
from tgi.sampling import SamplingParams

VOCAB = 1003
Reference = Callable[[Tensor, Tensor], Tensor]  # ids [1, tokens], scores [1, vocab] -> scores
PROMPT_TOKENS = 5
GRAMMAR = tuple(range(3, VOCAB, 5))


def counted(output: Tensor) -> Tensor:
    return torch.bincount(output, minlength=VOCAB).float()


def frequency(penalty: float) -> Reference:
    """OpenAI's: the score minus count times penalty, over the output."""
    return lambda ids, scores: scores - counted(ids[0, PROMPT_TOKENS:]) * penalty


def presence(penalty: float) -> Reference:
    """OpenAI's: the score minus the penalty where the output has the token."""
    return lambda ids, scores: scores - (counted(ids[0, PROMPT_TOKENS:]) > 0) * penalty


def bias(values: dict[int, float]) -> Reference:
    return hf.SequenceBiasLogitsProcessor([[[token_id], value] for token_id, value in values.items()])


def allowed(ids: tuple[int, ...]) -> Reference:
    return hf.PrefixConstrainedLogitsProcessor(lambda batch, sent: list(ids), 1)


def watermark(gamma: float, delta: float) -> Reference:
    return hf.WatermarkLogitsProcessor(VOCAB, "cpu", greenlist_ratio=gamma, bias=delta, seeding_scheme="lefthash")


def minimum(tokens: int, ids: list[int]) -> Reference:
    return hf.MinNewTokensLengthLogitsProcessor(PROMPT_TOKENS, tokens, ids)


WORDS = ((3,), (9, 4), (12, 12, 250))
# Every processor that a request can ask for, alone, and then many at once in TGI's order.
ROWS: dict[str, tuple[SamplingParams, list[Any]]] = {
    "nothing": (SamplingParams(), []),
    "temperature": (SamplingParams(temperature=0.7), [hf.TemperatureLogitsWarper(0.7)]),
    "high temperature": (SamplingParams(temperature=1.9), [hf.TemperatureLogitsWarper(1.9)]),
    "top_k": (SamplingParams(top_k=17), [hf.TopKLogitsWarper(17)]),
    "top_k beyond the vocabulary": (SamplingParams(top_k=5000), []),
    "top_p": (SamplingParams(top_p=0.83), [hf.TopPLogitsWarper(0.83)]),
    "typical_p": (SamplingParams(typical_p=0.6), [hf.TypicalLogitsWarper(0.6)]),
    "min_p": (SamplingParams(min_p=0.03), [hf.MinPLogitsWarper(0.03)]),
    "repetition_penalty": (SamplingParams(repetition_penalty=1.4), [hf.RepetitionPenaltyLogitsProcessor(1.4)]),
    "repetition reward": (SamplingParams(repetition_penalty=0.8), [hf.RepetitionPenaltyLogitsProcessor(0.8)]),
    "frequency_penalty": (SamplingParams(frequency_penalty=0.6), [frequency(0.6)]),
    "frequency reward": (SamplingParams(frequency_penalty=-1.5), [frequency(-1.5)]),
    "presence_penalty": (SamplingParams(presence_penalty=1.2), [presence(1.2)]),
    "logit_bias": (SamplingParams(logit_bias={5: 2.5, 700: -100.0}), [bias({5: 2.5, 700: -100.0})]),
    "no_repeat_ngram": (SamplingParams(no_repeat_ngram_size=2), [hf.NoRepeatNGramLogitsProcessor(2)]),
    "bad words": (SamplingParams(bad_words=WORDS), [hf.NoBadWordsLogitsProcessor([list(word) for word in WORDS])]),
    "allowed tokens": (SamplingParams(allowed_token_ids=(7, 90, 1002)), [allowed((7, 90, 1002))]),
    "min tokens": (SamplingParams(min_tokens=9, withheld=(2, 50)), [minimum(9, [2, 50])]),
    "min tokens reached": (SamplingParams(min_tokens=6, withheld=(2, 50)), [minimum(6, [2, 50])]),
    "watermark": (SamplingParams(watermark_gamma=0.25, watermark_delta=2.0), [watermark(0.25, 2.0)]),
    "grammar": (SamplingParams(grammar="every fifth"), [allowed(GRAMMAR)]),
    "sampling, all of the distribution's": (
        SamplingParams(do_sample=True, seed=1, temperature=0.8, top_k=60, top_p=0.9, min_p=0.01, typical_p=0.95),
        [hf.TemperatureLogitsWarper(0.8), hf.TopKLogitsWarper(60), hf.TopPLogitsWarper(0.9), hf.MinPLogitsWarper(0.01),
         hf.TypicalLogitsWarper(0.95)],
    ),
    "penalties and constraints": (
        SamplingParams(do_sample=True, seed=2, watermark_gamma=0.5, watermark_delta=1.0, repetition_penalty=1.2,
                       frequency_penalty=0.3, presence_penalty=0.2, logit_bias={11: 1.5}, no_repeat_ngram_size=3,
                       bad_words=WORDS, min_tokens=20, withheld=(2,), temperature=1.3, top_k=100),
        [watermark(0.5, 1.0), hf.RepetitionPenaltyLogitsProcessor(1.2), frequency(0.3), presence(0.2), bias({11: 1.5}),
         hf.NoRepeatNGramLogitsProcessor(3), hf.NoBadWordsLogitsProcessor([list(word) for word in WORDS]),
         minimum(20, [2]), hf.TemperatureLogitsWarper(1.3), hf.TopKLogitsWarper(100)],
    ),
    "grammar among allowed tokens": (
        SamplingParams(grammar="every fifth", allowed_token_ids=tuple(range(0, 600, 3)), temperature=0.5),
        [allowed(GRAMMAR), allowed(tuple(range(0, 600, 3))), hf.TemperatureLogitsWarper(0.5)],
    ),
}  # fmt: skip


class EveryFifth:
    """A grammar for tests: it always allows the same tokens."""

    def matcher(self, grammar: str) -> EveryFifth:
        return self

    def fill(self, bitmask: Any) -> None:
        words = bitmask.view(np.uint32)
        for token_id in GRAMMAR:
            words[token_id // 32] |= np.uint32(1 << token_id % 32)

    def accept(self, token_id: int) -> None:
        """Every token, for the histories are random."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    kernels.configure(threads=1)


def history(row: int) -> tuple[list[int], list[int]]:
    """A prompt and an output that repeat themselves, and hold what bad words begin with."""
    draw = np.random.default_rng(row)
    return draw.integers(0, 30, PROMPT_TOKENS).tolist(), [*draw.integers(0, 9, 4).tolist(), 12, 12, 9][: 6 + row % 2]


def random_logits(seed: int) -> Tensor:
    return torch.randn(len(ROWS), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("seed", range(4))
def test_every_processor_in_a_mixed_batch_is_that_of_transformers(seed: int) -> None:
    logits, names = random_logits(seed), list(ROWS)
    sampler = Sampler(VOCAB, EveryFifth())
    for row, (params, _) in enumerate(ROWS.values()):
        prompt, output = (np.array(ids, np.int32) for ids in history(row))
        sampler.begin([RowState(row, params, prompt, output, 3, prompt_logprobs=False, stop_ids=(2,))])
    order = np.random.default_rng(seed).permutation(len(ROWS)).tolist()
    processed = logits[order].numpy().copy()

    choice = sampler.sample(processed, order)

    assert not choice.failed
    for entry, row in enumerate(order):
        prompt, output = history(row)
        ids, expected = torch.tensor([prompt + output]), logits[row : row + 1].clone()
        for processor in ROWS[names[row]][1]:
            expected = processor(ids, expected)
        torch.testing.assert_close(
            torch.from_numpy(processed[entry : entry + 1]), expected, rtol=2e-6, atol=0, msg=names[row]
        )
        likely = torch.log_softmax(expected[0].double(), dim=-1)
        chosen = int(choice.token_ids[entry])
        assert choice.logprobs[entry] == pytest.approx(float(likely[chosen]), abs=1e-5), names[row]
        if not ROWS[names[row]][0].do_sample:
            assert chosen == int(expected.argmax()), names[row]
        top = torch.topk(likely, min(3, int((likely > -torch.inf).sum())))  # removed tokens are never reported
        assert np.frombuffer(choice.top[entry].token_ids, "<i4").tolist() == top.indices.tolist(), names[row]
        found = np.frombuffer(choice.top[entry].logprobs, "<f4")
        np.testing.assert_allclose(found, top.values.numpy(), rtol=0, atol=1e-5)


def test_the_tokens_of_prompts_are_scored_as_by_a_softmax_of_what_the_model_says() -> None:
    logits, rows = random_logits(9), list(range(len(ROWS)))
    sampler = Sampler(VOCAB, EveryFifth())
    for row, (params, _) in enumerate(ROWS.values()):
        prompt, output = (np.array(ids, np.int32) for ids in history(row))
        sampler.begin([RowState(row, params, prompt, output, 2, prompt_logprobs=True, stop_ids=(2,))])
    targets = np.arange(len(ROWS), dtype=np.int32) * 7

    scored = sampler.score(logits.numpy().copy(), rows, targets)

    expected = torch.log_softmax(logits.double(), dim=-1)
    reference = expected[torch.arange(len(ROWS)), torch.from_numpy(targets).long()].numpy()
    np.testing.assert_allclose(scored.logprobs, reference, rtol=0, atol=1e-5)  # no processor touches a prompt
    for row in rows:
        top = np.frombuffer(scored.top[row].token_ids, "<i4").tolist()
        assert top == torch.topk(expected[row], 2).indices.tolist()


def test_every_processor_of_a_request_is_among_the_rows() -> None:
    single = {name for params, _ in ROWS.values() for name in params.__struct_fields__
              if getattr(params, name) != getattr(SamplingParams(), name)}  # fmt: skip
    not_processors = {"sequence_index"}  # which of several sequences: a word of the noise
    assert set(SamplingParams.__struct_fields__) - single == not_processors
