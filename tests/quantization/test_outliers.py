"""Which columns `--quantize int8` leaves out of its groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from tests.step_plans import Driver
from tests.tiny_models import tiny_model
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Model
from tgi.quantization import outliers
from tgi.runner.runner import ModelRunner

COLUMN = 5


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with one channel that is 300 times as large after its first norm, and met by weights as much smaller."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tiny_model(tmp_path, hidden_size=64, intermediate_size=96)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    layer = "model.layers.0."
    weights[layer + "input_layernorm.weight"][COLUMN] *= 300
    for name in "qkv":
        weights[f"{layer}self_attn.{name}_proj.weight"][:, COLUMN] /= 300
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def scores(model: Path, quantize: str | None = "int8", *, block_size: int = 16) -> tuple[np.ndarray, list[int]]:
    """Log-probabilities of a prompt, and the outliers of the first map."""
    batching = Batching(max_batch_total_tokens=512, block_size=block_size)
    runner = ModelRunner.load(open_checkpoint(model), config=Config(model=Model(quantize=quantize), batching=batching))
    driver = Driver(runner)
    sequence = driver.add(list(range(1, 40)), longest=60, score=True)
    driver.step((sequence, len(sequence.ids)))
    return np.array(list(sequence.logprobs.values())), runner._model.layers[0].attention.qkv.weight.outliers


def test_a_model_is_closer_to_exact_with_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, none = scores(model, None)
    found, columns = scores(model)
    monkeypatch.setattr(outliers, "MOST", 0)
    without, empty = scores(model)
    assert none == empty == []
    assert COLUMN in columns
    assert np.abs(found - exact).mean() < 0.5 * np.abs(without - exact).mean()


def test_the_choice_depends_on_the_weights_alone(model: Path) -> None:
    first, columns = scores(model)
    for block_size in (16, 1, 64):
        again, others = scores(model, block_size=block_size)
        assert others == columns
        assert np.array_equal(again, first)


def test_the_columns_that_widen_their_groups_are_chosen() -> None:
    x = np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32)
    x[:, [5, 40, 41]] *= 50
    found = outliers.choose(x)
    assert {5, 40, 41} <= set(found)
    assert found == sorted(set(found))
    x[:, found] = 0
    assert np.abs(x).max() < 6


def test_no_more_are_chosen_than_pay_or_than_there_may_be() -> None:
    random = np.random.default_rng(0)
    assert outliers.choose(np.ones((8, 640), np.float32)) == []
    assert outliers.choose(np.zeros((8, 64), np.float32)) == []
    assert outliers.choose(np.full((8, 64), np.nan, np.float32)) == []
    x = random.standard_normal((32, 64)).astype(np.float32)
    x[:, ::2] *= 1000 * np.arange(1, 33)
    assert len(outliers.choose(x)) == outliers.MOST


def test_columns_behind_the_last_whole_group_count() -> None:
    x = np.ones((4, 40), np.float32)
    x[:, 39] = 100
    assert outliers.choose(x) == [39]


def test_the_tokens_are_in_any_vocabulary_and_differ() -> None:
    for size in (1, 7, 49_152, 262_144):
        ids = outliers.tokens(size)
        assert len(ids) == outliers.NUM_TOKENS
        assert ids.min() >= 0
        assert ids.max() < size
    assert len(set(outliers.tokens(49_152).tolist())) == outliers.NUM_TOKENS
