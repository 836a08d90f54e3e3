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
    for most in (graphs.MAX_ROWS, 0):
        monkeypatch.setattr(graphs, "MAX_ROWS", most)
        runner = load(tmp_path)
        driver = Driver(runner)
        sequences = [driver.add(list(range(1 + i, 20 + 2 * i)), longest=60) for i in range(3)]
        driver.step(*((sequence, len(sequence.ids)) for sequence in sequences))
        logprobs = []
        for count in [3, 3, 1, 3, 2, 2, 1, 3]:
            logprobs.append(driver.step(*((sequence, 1) for sequence in sequences[:count])).logprobs.tobytes())
        outputs.append(([sequence.output for sequence in sequences], logprobs))
        replays = len(runner._graphs._graphs)
        if most and kernels.record([]) is not None and kind != "gpt2":
            assert replays == 3
        else:
            assert replays == 0 or kind == "gpt2"
    assert outputs[0] == outputs[1]


def test_the_least_used_recordings_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels.record([]) is None:
        pytest.skip("the native library was not built")
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    tiny_model(tmp_path)
    runner = load(tmp_path)
    driver = Driver(runner)
    sequences = [driver.add([1, 2, 3 + i], longest=40) for i in range(3)]
    driver.step(*((sequence, 3) for sequence in sequences))
    for count in (1, 2, 1, 3):
        driver.step(*((sequence, 1) for sequence in sequences[:count]))
    assert [rows for rows, _ in runner._graphs._graphs] == [1, 3]


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
        assert list(runner._graphs._graphs) == [(2, not neighbour.do_sample)]
        outputs.append((sequences[0].output, [result.logprobs[0] for result in results]))
    assert outputs[0] == outputs[1]
