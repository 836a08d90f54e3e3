"""Replayed steps give what the model gives, and only those that can be replayed are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.step_plans import Driver
from tests.tiny_models import tiny_model
from tgi import kernels
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config
from tgi.runner import graphs
from tgi.runner.graphs import Kind
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams


def load(path: Path) -> ModelRunner:
    return ModelRunner.load(open_checkpoint(path), config=Config(batching=Batching(max_batch_total_tokens=2048)))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2"])
def test_replayed_steps_choose_what_computed_ones_do(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(tmp_path, kind)
    outputs = []
    for most in (100, 0):
        monkeypatch.setattr(graphs, "MAX_ROWS", most)
        monkeypatch.setattr(graphs, "MAX_TOKENS", most)
        runner = load(tmp_path)
        driver = Driver(runner)
        sequences = [driver.add(list(range(1 + i, 20 + 2 * i)), longest=60) for i in range(3)]
        driver.step((sequences[0], 7))  # no token needs logits
        logprobs = [driver.step((sequences[0], 12), (sequences[1], 20), (sequences[2], 3)).logprobs.tobytes()]
        for count in [2, 2, 1, 2]:
            logprobs.append(driver.step(*((sequence, 1) for sequence in sequences[:count])).logprobs.tobytes())
        logprobs.append(driver.step((sequences[0], 1), (sequences[2], 18)).logprobs.tobytes())
        for count in [3, 3, 1, 3, 2, 2, 1, 3]:
            logprobs.append(driver.step(*((sequence, 1) for sequence in sequences[:count])).logprobs.tobytes())
        outputs.append(([sequence.output for sequence in sequences], logprobs))
        replayed = most and kernels.record([]) is not None and kind != "gpt2"
        assert set(runner._graphs._graphs) == (
            {Kind(decode=False, wanted=False, likeliest=False), Kind(decode=False, wanted=True, likeliest=False),
             Kind(decode=True, wanted=True, likeliest=True)} if replayed else set()
        )  # fmt: skip
    assert outputs[0] == outputs[1]


def test_large_steps_are_computed_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_ROWS", 2)
    monkeypatch.setattr(graphs, "MAX_TOKENS", 10)
    tiny_model(tmp_path)
    runner = load(tmp_path)
    driver = Driver(runner)
    sequences = [driver.add([1, 2, 3, 4 + i], longest=40) for i in range(3)]
    driver.step(*((sequence, 4) for sequence in sequences))
    driver.step(*((sequence, 1) for sequence in sequences))
    assert not runner._graphs._graphs


def test_torch_computes_without_recordings(tmp_path: Path) -> None:
    tiny_model(tmp_path)
    runner = load(tmp_path)
    kernels.configure(native=False)
    driver = Driver(runner)
    sequence = driver.add([1, 2, 3], longest=10)
    driver.step((sequence, 3))
    driver.step((sequence, 1))
    assert not runner._graphs._graphs
    kernels.configure(threads=1)


def test_a_step_that_asks_for_likeliest_tokens_alone_is_one_recording(tmp_path: Path) -> None:
    if kernels.record([]) is None:
        pytest.skip("the native library was not built")
    tiny_model(tmp_path)
    outputs = []
    for neighbour in (SamplingParams(), SamplingParams(do_sample=True, seed=1)):
        runner = load(tmp_path)
        driver = Driver(runner)
        sequences = [driver.add([1, 2, 3], longest=40), driver.add([4, 5, 6], neighbour, longest=40)]
        driver.step(*((sequence, 3) for sequence in sequences))
        results = [driver.step(*((sequence, 1) for sequence in sequences)) for _ in range(5)]
        decoding = [kind for kind in runner._graphs._graphs if kind.decode]
        assert decoding == [Kind(decode=True, wanted=True, likeliest=not neighbour.do_sample)]
        outputs.append((sequences[0].output, [result.logprobs[0] for result in results]))
    assert outputs[0] == outputs[1]
