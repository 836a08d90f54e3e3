"""The same request gives the same tokens, log-probabilities and likely tokens, whatever happens around it.

The real scheduler and the real runner work on small random models; only the process boundary is missing. A request's
reference is what it gives alone, in one chunk, on a cold cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny_models import tiny_model
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config
from tgi.engine.messages import EngineRequest, FinishReason, StepOutput
from tgi.engine.scheduler import Scheduler
from tgi.runner.plan import Int32
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams, TopTokens

VOCABULARY = 100  # token ids used in prompts; every tiny model has at least as many
# Token ids; bit for bit their log-probabilities, the prompt's, and the likely tokens beside both.
Answer = tuple[tuple[int, ...], bytes, bytes, tuple[TopTokens, ...]]


@dataclass
class Tried:
    """Answers of one run, and whether the run did what it was meant to provoke."""

    answers: dict[int, Answer]
    preemptions: int = 0
    cached_tokens: int = 0


class Climb:
    """A grammar for tests: after token t only t + 1, t + 2 and t + 3 may follow, until it begins anew."""

    def __init__(self) -> None:
        self.last = 2

    def matcher(self, grammar: str) -> Climb:
        assert grammar == "climb"
        return Climb()

    def fill(self, bitmask: Int32) -> None:
        for token_id in range(self.last + 1, self.last + 4):
            bitmask[token_id // 32] |= np.array(1 << token_id % 32, np.uint32).view(np.int32)

    def accept(self, token_id: int) -> None:
        assert self.last < token_id < self.last + 4
        self.last = 2 if token_id > VOCABULARY - 10 else token_id


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gpt2"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    path: Path = tiny_model(tmp_path_factory.mktemp("model"), request.param)
    config = Config(batching=Batching(max_batch_total_tokens=4096, max_batch_prefill_tokens=512, max_batch_size=32))
    runner = ModelRunner.load(open_checkpoint(path), config=config)
    runner._sampler._grammars = Climb()
    return runner


SAMPLING = (
    SamplingParams(),
    SamplingParams(do_sample=True, seed=1),
    SamplingParams(do_sample=True, seed=2**64 - 1, temperature=0.7, top_p=0.9),
    SamplingParams(do_sample=True, seed=3, top_k=10, sequence_index=1),
    SamplingParams(do_sample=True, seed=4, typical_p=0.8, repetition_penalty=1.3),
    SamplingParams(repetition_penalty=1.5, frequency_penalty=0.3, presence_penalty=-0.4),
    SamplingParams(logit_bias={5: 2.0, 7: -3.0}),
    SamplingParams(do_sample=True, seed=5, watermark_gamma=0.5, watermark_delta=2.0, min_p=0.02),
    SamplingParams(no_repeat_ngram_size=2, bad_words=((3,), (4, 5)), min_tokens=3, withheld=(6,)),
    SamplingParams(do_sample=True, seed=6, allowed_token_ids=tuple(range(0, 100, 3)), no_repeat_ngram_size=3),
    SamplingParams(do_sample=True, seed=7, grammar="climb", temperature=1.5),
)


@st.composite
def requests(draw: st.DrawFn) -> list[EngineRequest]:
    """Up to 12 requests; prompts are cut from two long texts, so that many share a prefix."""
    texts = [np.random.default_rng(n).integers(3, VOCABULARY, 200, dtype=np.int32) for n in range(2)]
    chosen = []
    for id_ in range(draw(st.integers(1, 12))):
        text = texts[draw(st.integers(0, 1))]
        chosen.append(
            EngineRequest(
                id=id_,
                prompt_ids=text[: draw(st.integers(1, 90))].tobytes(),
                sampling=draw(st.sampled_from(SAMPLING)),
                max_new_tokens=draw(st.integers(1, 24)),
                top_tokens=draw(st.sampled_from([0, 2])),
                prompt_logprobs=draw(st.integers(0, 3)) == 0,
            )
        )
    return chosen


def run(
    runner: ModelRunner,
    specs: list[EngineRequest],
    *,
    budget: int = 512,
    num_blocks: int = 200,
    arrivals: list[int] | None = None,
    scheduler: Scheduler | None = None,
) -> Tried:
    """Let the requests arrive at the given steps and run all to their end."""
    scheduler = scheduler or fresh(runner, budget=budget, num_blocks=num_blocks)
    pending = sorted(zip(arrivals or [0] * len(specs), specs, strict=True), key=lambda pair: (pair[0], pair[1].id))
    tokens: dict[int, list[int]] = {spec.id: [] for spec in specs}
    logprobs: dict[int, list[float]] = {spec.id: [] for spec in specs}
    prompts: dict[int, bytes] = {}
    likely: dict[int, list[TopTokens]] = {spec.id: [] for spec in specs}
    open_ids = set(tokens)
    tried = Tried({})
    step = 0
    while open_ids:
        while pending and pending[0][0] <= step:
            scheduler.add(pending.pop(0)[1])
        step += 1
        plan = scheduler.plan()
        if plan is None:
            continue
        output, failed = scheduler.update(plan, runner.execute(plan))
        assert not failed
        tried.preemptions += output.stats.preemptions
        tried.cached_tokens += output.stats.cached_tokens
        open_ids -= take(output, tokens, logprobs)
        take_reports(output, prompts, likely)
    assert set(prompts) == {spec.id for spec in specs if spec.prompt_logprobs}
    tried.answers = {
        i: (tuple(tokens[i]), np.array(logprobs[i], np.float32).tobytes(), prompts.get(i, b""), tuple(likely[i]))
        for i in tokens
    }
    return tried


def take_reports(output: StepOutput, prompts: dict[int, bytes], likely: dict[int, list[TopTokens]]) -> None:
    """Append what a step tells of prompts and of tokens that were not chosen."""
    ids = np.frombuffer(output.request_ids, np.int64).tolist()
    for entry, column in output.prompt_logprobs.items():
        assert ids[entry] not in prompts, "a prompt was reported twice"
        prompts[ids[entry]] = column
        at = output.prompt_top.get(entry, {})
        likely[ids[entry]] += [at[position] for position in sorted(at)]
    for entry, top in output.top.items():
        likely[ids[entry]].append(top)


def take(output: StepOutput, tokens: dict[int, list[int]], logprobs: dict[int, list[float]]) -> set[int]:
    """Append a step's tokens to their requests. Returns: ids that finished."""
    ids = np.frombuffer(output.request_ids, np.int64).tolist()
    finish = np.frombuffer(output.finish, np.uint8).tolist()
    columns = (output.indices, np.int32), (output.token_ids, np.int32), (output.logprobs, np.float32)
    for id_, index, token, logprob in zip(ids, *(np.frombuffer(c, t).tolist() for c, t in columns), strict=True):
        assert index == len(tokens[id_]), "a token was lost or repeated"
        tokens[id_].append(token)
        logprobs[id_].append(logprob)
    return {id_ for id_, reason in zip(ids, finish, strict=True) if reason != FinishReason.NONE}


def fresh(runner: ModelRunner, *, budget: int, num_blocks: int, prefix_caching: bool = True) -> Scheduler:
    """A scheduler with a cold prefix cache."""
    return Scheduler(
        num_blocks=num_blocks,
        block_size=runner.block_size,
        max_rows=runner.max_rows,
        max_step_tokens=budget,
        max_total_tokens=min(runner.max_total_tokens, num_blocks * runner.block_size),
        rope_variant=runner.rope_variant,
        prefix_caching=prefix_caching,
    )


def alone(runner: ModelRunner, specs: list[EngineRequest]) -> dict[int, Answer]:
    """Each request's reference."""
    answers: dict[int, Answer] = {}
    for spec in specs:
        answers |= run(runner, [spec]).answers
    return answers


relaxed = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(specs=requests(), budget=st.sampled_from([16, 37, 512]), data=st.data())
def test_batch_chunking_and_arrival_do_not_change_tokens(
    runner: ModelRunner, specs: list[EngineRequest], budget: int, data: st.DataObject
) -> None:
    arrivals = data.draw(st.lists(st.integers(0, 20), min_size=len(specs), max_size=len(specs)))
    assert run(runner, specs, budget=budget, arrivals=arrivals).answers == alone(runner, specs)


@relaxed
@given(specs=requests(), budget=st.sampled_from([16, 512]))
def test_a_warm_prefix_cache_does_not_change_tokens(
    runner: ModelRunner, specs: list[EngineRequest], budget: int
) -> None:
    scheduler = fresh(runner, budget=budget, num_blocks=200)
    cold = run(runner, specs, scheduler=scheduler)
    warm = run(runner, specs, scheduler=scheduler)
    assert cold.answers == warm.answers == alone(runner, specs)


@relaxed
@given(specs=requests(), budget=st.sampled_from([16, 512]))
def test_preemption_does_not_change_tokens(runner: ModelRunner, specs: list[EngineRequest], budget: int) -> None:
    largest = max(len(spec.prompt_ids) // 4 + spec.max_new_tokens for spec in specs)
    tried = run(runner, specs, budget=budget, num_blocks=-(-largest // runner.block_size) + 1)
    assert tried.answers == alone(runner, specs)


@relaxed
@given(specs=requests(), data=st.data())
def test_resubmission_with_emitted_tokens_continues_exactly(
    runner: ModelRunner, specs: list[EngineRequest], data: st.DataObject
) -> None:
    """What recovery does after the engine's death."""
    reference = alone(runner, specs)
    resumed = []
    for spec in specs:
        tokens = reference[spec.id][0]
        emitted = data.draw(st.integers(0, len(tokens) - 1))
        resumed.append(msgspec.structs.replace(spec, output_ids=np.array(tokens[:emitted], np.int32).tobytes()))
    scheduler = fresh(runner, budget=64, num_blocks=200)
    answers = run_resumed(runner, resumed, scheduler)
    for spec in resumed:
        emitted = len(spec.output_ids) // 4
        assert answers[spec.id] == list(reference[spec.id][0][emitted:])


def run_resumed(runner: ModelRunner, specs: list[EngineRequest], scheduler: Scheduler) -> dict[int, list[int]]:
    """Token ids after the emitted ones, whose numbering must go on where it stopped."""
    answers: dict[int, list[int]] = {spec.id: [] for spec in specs}
    emitted = {spec.id: len(spec.output_ids) // 4 for spec in specs}
    for spec in specs:
        scheduler.add(spec)
    while (plan := scheduler.plan()) is not None:
        output, failed = scheduler.update(plan, runner.execute(plan))
        assert not failed
        ids = np.frombuffer(output.request_ids, np.int64).tolist()
        indices = np.frombuffer(output.indices, np.int32).tolist()
        for id_, index, token in zip(ids, indices, np.frombuffer(output.token_ids, np.int32).tolist(), strict=True):
            assert index == emitted[id_] + len(answers[id_])
            answers[id_].append(token)
    return answers


def test_thirty_one_neighbours_do_not_change_tokens(runner: ModelRunner) -> None:
    rng = np.random.default_rng(9)
    specs = [
        EngineRequest(
            id=n,
            prompt_ids=rng.integers(3, VOCABULARY, 5 + 3 * n, dtype=np.int32).tobytes(),
            sampling=SAMPLING[n % len(SAMPLING)],
            max_new_tokens=20,
        )
        for n in range(32)
    ]
    reference = alone(runner, specs)
    for budget in (16, 512):
        assert run(runner, specs, budget=budget).answers == reference


def test_the_runs_above_do_preempt_and_do_hit_the_cache(runner: ModelRunner) -> None:
    """Guards the properties against testing nothing."""
    text = np.arange(3, 93, dtype=np.int32)
    specs = [
        EngineRequest(id=n, prompt_ids=text[: 60 + n].tobytes(), sampling=SAMPLING[n], max_new_tokens=24)
        for n in range(6)
    ]
    tight = run(runner, specs, num_blocks=-(-90 // runner.block_size) + 4)
    assert tight.preemptions > 0
    scheduler = fresh(runner, budget=512, num_blocks=200)
    run(runner, specs, scheduler=scheduler)
    assert run(runner, specs, scheduler=scheduler).cached_tokens >= 6 * 48
