"""The runner answers plans: everything the plan asks for, nothing that depends on the rest of the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.step_plans import Driver
from tests.tiny_models import VOCAB_SIZE, tiny_model
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Limits, Model
from tgi.errors import ModelError
from tgi.kernels import Array
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.runner.memory import LOGITS_ROWS
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams

SAMPLED = SamplingParams(do_sample=True, seed=11, temperature=0.8, top_p=0.9, repetition_penalty=1.2)
CONFIG = Config(batching=Batching(max_batch_total_tokens=4096), limits=Limits(max_total_tokens=512))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def runner(path: Path) -> ModelRunner:
    return ModelRunner.load(open_checkpoint(path), config=CONFIG)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, VOCAB_SIZE, length).tolist()


def test_what_is_loaded_is_reported(runner: ModelRunner) -> None:
    assert (runner.model_type, runner.dtype, runner.device, runner.quantize) == ("llama", "float32", "cpu", None)
    assert (runner.num_blocks, runner.block_size, runner.max_total_tokens) == (256, 16, 512)
    assert runner.vocab_size == VOCAB_SIZE
    assert runner.memory.kv_cache == 256 * runner.memory.kv_block
    assert runner.memory.weights > 100_000
    assert runner.load_s > 0


def test_more_requests_than_one_slice_of_logits_all_get_their_token(runner: ModelRunner) -> None:
    count = LOGITS_ROWS + 5
    driver = Driver(runner)
    many = [driver.add(prompt(3, seed)) for seed in range(count)]

    result = driver.step(*((one, 3) for one in many))

    assert result.rows.tolist() == list(range(count))
    for seed in (0, LOGITS_ROWS - 1, LOGITS_ROWS, count - 1):
        single = Driver(runner)
        alone = single.add(prompt(3, seed))
        single.step((alone, 3))
        assert many[seed].output == alone.output
        assert many[seed].logprobs == alone.logprobs


def test_a_prompt_is_scored_by_raw_logits_while_its_request_samples(runner: ModelRunner) -> None:
    driver = Driver(runner)
    plain, sampled = driver.add(prompt(150), score=True), driver.add(prompt(150), SAMPLED, score=True)

    result = driver.step((plain, 150), (sampled, 150))

    assert [sampled.logprobs[position] for position in range(1, 150)] == [
        plain.logprobs[position] for position in range(1, 150)
    ]
    assert result.token_ids[:149].tolist() == plain.ids[1:150]
    assert result.failed == {}


def test_a_preempted_request_goes_on_with_the_same_tokens(runner: ModelRunner) -> None:
    driver = Driver(runner)
    steady = driver.add(prompt(20), SAMPLED, longest=60, top_tokens=2)
    driver.run([steady], 30)

    first = driver.add(prompt(20), SAMPLED, longest=60)
    driver.run([first], 12)
    driver.end(first)
    again = driver.add(first.ids, SAMPLED, longest=60)
    again.prompt_length = 20  # the rest is output, and counts as output
    driver.run([again], 18, chunk=7)

    assert again.ids == steady.ids


def test_top_tokens_come_with_the_entries_that_asked(runner: ModelRunner) -> None:
    driver = Driver(runner)
    silent, asking = driver.add(prompt(4), score=True), driver.add(prompt(5), top_tokens=3)

    result = driver.step((silent, 4), (asking, 5))

    assert list(result.top) == [4]
    top = np.frombuffer(result.top[4].token_ids, np.int32)
    assert len(top) == 3
    assert top[0] == result.token_ids[4]


def test_top_tokens_of_a_prompt_are_the_choices_it_would_have_got(runner: ModelRunner) -> None:
    driver = Driver(runner)
    scored = driver.add(prompt(5), score=True, top_tokens=2)

    result = driver.step((scored, 5))

    assert sorted(result.top) == [0, 1, 2, 3, 4]
    for length in range(1, 5):
        single = Driver(runner)
        alone = single.add(prompt(5)[:length], top_tokens=2)
        chosen, given = single.step((alone, length)).top[0], result.top[length - 1]
        assert chosen.token_ids == given.token_ids
        np.testing.assert_allclose(
            np.frombuffer(chosen.logprobs, np.float32), np.frombuffer(given.logprobs, np.float32), rtol=1e-6
        )


def test_logits_that_are_no_numbers_fail_their_request_alone(path: Path) -> None:
    class Poisoned:
        """A checkpoint whose embedding of token 7 is NaN."""

        config = open_checkpoint(path).config
        names = open_checkpoint(path).names

        def tensor(self, name: str) -> object:
            raw = open_checkpoint(path).tensor(name)
            if name == "model.embed_tokens.weight":
                raw.data.view(np.float32).reshape(raw.shape)[7] = np.nan
            return raw

    runner = ModelRunner.load(Poisoned(), config=CONFIG)  # type: ignore[arg-type]
    driver = Driver(runner)
    healthy, poisoned = driver.add([5, 6, 8], score=True), driver.add([5, 7, 8], score=True)

    result = driver.step((healthy, 3), (poisoned, 3))

    assert sorted(result.failed) == [4, 5]  # token 7 itself is scored before it is read
    assert np.isfinite(result.logprobs[:4]).all()


def test_a_step_that_does_not_fit_raises_memory_error_and_the_next_one_runs(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(batch: ForwardBatch, caches: list[KVCache]) -> Array:
        return np.empty((1 << 50, len(batch.input_ids)), np.float32)

    driver = Driver(runner)
    failed = driver.add(prompt(4))
    with monkeypatch.context() as patch:
        patch.setattr(runner._model, "forward", too_large)
        with pytest.raises(MemoryError, match=r"(?i)allocate"):
            driver.step((failed, 4))

    driver.end(failed)
    after = driver.add(prompt(4))
    driver.run([after], 2)
    assert len(after.output) == 2


def test_warming_up_changes_no_answer_and_no_lendable_block(path: Path) -> None:
    cold = ModelRunner.load(open_checkpoint(path), config=CONFIG)
    warm = ModelRunner.load(open_checkpoint(path), config=CONFIG)
    warm.warm_up()
    assert warm.warmup_s > 0
    assert not any(cache.keys[1:].any() or cache.values[1:].any() for cache in warm._caches)

    answers = []
    for runner in (cold, warm):
        driver = Driver(runner)
        sequence = driver.add(prompt(20), SAMPLED, longest=40)
        driver.run([sequence], 10)
        answers.append(sequence.ids)

    assert answers[0] == answers[1]


@pytest.mark.parametrize("block_size", [1, 2, 64])
def test_any_block_size_gives_the_same_text(path: Path, block_size: int) -> None:
    answers = []
    for size in (16, block_size):
        config = Config(batching=Batching(max_batch_total_tokens=512, block_size=size, max_batch_prefill_tokens=64))
        runner = ModelRunner.load(open_checkpoint(path), config=config)
        runner.warm_up()
        driver = Driver(runner)
        sequence = driver.add(prompt(50), longest=60)
        driver.run([sequence], 10)
        answers.append(sequence.ids)

    assert answers[0] == answers[1]


def test_every_lendable_block_can_be_used(path: Path) -> None:
    runner = ModelRunner.load(open_checkpoint(path), config=Config(batching=Batching(max_batch_total_tokens=64)))
    driver = Driver(runner)
    sequence = driver.add(prompt(60), longest=64)
    assert sorted(sequence.blocks) == [1, 2, 3, 4]

    driver.run([sequence], 4)

    assert len(sequence.output) == 4


def test_requests_of_different_rope_variants_share_a_step(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    path = tiny_model(tmp_path, "llama", max_position_embeddings=64, rope_parameters=rope)
    runner = ModelRunner.load(open_checkpoint(path), config=CONFIG)
    lengths = [40, 100, 130]  # within, and two lengths beyond
    assert [runner.rope_variant(length) for length in lengths] == [0, 100, 130]
    alone = []
    for length in lengths:
        driver = Driver(runner)
        sequence = driver.add(prompt(20), longest=length, score=True)
        driver.run([sequence], 5)
        alone.append(sequence)

    driver = Driver(runner)
    together = [driver.add(prompt(20), longest=length, score=True) for length in lengths]
    driver.run(together, 5, chunk=6)

    assert [one.logprobs for one in together] == [one.logprobs for one in alone]
    assert together[0].logprobs != together[1].logprobs != together[2].logprobs


def test_a_cache_of_16_bits_follows_the_flag(path: Path) -> None:
    config = Config(model=Model(dtype="bfloat16"), batching=Batching(max_batch_total_tokens=64))

    runner = ModelRunner.load(open_checkpoint(path), config=config)

    assert runner.dtype == "bfloat16"
    assert runner.memory.kv_block == 2 * 3 * 16 * 2 * 16 * 2
    driver = Driver(runner)
    sequence = driver.add(prompt(5))
    driver.run([sequence], 3)
    assert len(sequence.output) == 3


def test_a_model_too_large_for_the_machine_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi.runner.memory.available_memory", lambda: 1 << 20)

    with pytest.raises(ModelError, match="not enough memory") as caught:
        ModelRunner.load(open_checkpoint(path), config=CONFIG)

    assert caught.value.exit_code == 17
