"""Float weights become 8-bit integers with a known error, once, and what is kept on disk is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.step_plans import Driver
from tests.tiny_models import tiny_model
from tgi.checkpoint import open_checkpoint
from tgi.checkpoint.blocks import dequantize
from tgi.config import Batching, Config, Model
from tgi.errors import ModelError
from tgi.layers.loader import Loader
from tgi.quantization import int8
from tgi.runner.runner import ModelRunner

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored(values: torch.Tensor, layout: str) -> int8.Bytes:
    return values.to(TYPES[layout]).contiguous().view(torch.uint8).reshape(-1).numpy()


@pytest.mark.parametrize("layout", TYPES)
def test_a_weight_is_off_by_half_a_step_of_its_group(layout: str) -> None:
    torch.manual_seed(0)
    values = torch.randn(70, 96) * torch.logspace(-3, 2, 70)[:, None]
    given = values.to(TYPES[layout]).float().numpy()
    found = dequantize("Q8_0", int8.quantize(layout, stored(values, layout), 96), 96)
    step = np.abs(given).reshape(70, 3, 32).max(axis=2, keepdims=True) / 127
    assert (np.abs(found - given).reshape(70, 3, 32) <= step * 0.5002 + 2.0**-25 * 127).all()


def test_large_matrices_are_converted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(torch.randn(50, 64), "F16")
    whole = int8.quantize("F16", data, 64)
    monkeypatch.setattr(int8, "_STEP_VALUES", 7 * 32)
    assert np.array_equal(int8.quantize("F16", data, 64), whole)


def test_zeros_stay_zeros_and_what_is_no_number_none() -> None:
    values = torch.zeros(3, 32)
    values[1, 5] = float("nan")
    values[2, 7] = float("inf")
    found = dequantize("Q8_0", int8.quantize("F32", stored(values, "F32"), 32), 32)
    assert (found[0] == 0).all()
    assert np.isnan(found[1:]).all()


def test_a_matrix_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(torch.randn(5, 64), "F16")
    first = int8.Cache(tmp_path / "cache").quantize("F16", data, 64)
    monkeypatch.setattr(int8, "quantize", lambda *_: pytest.fail("converted again"))
    assert np.array_equal(int8.Cache(tmp_path / "cache").quantize("F16", data, 64), first)


@pytest.mark.parametrize("damage", ["short", "flipped", "empty"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    data = stored(torch.randn(5, 64), "F16")
    cache = int8.Cache(tmp_path)
    expected = np.array(cache.quantize("F16", data, 64))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes({"short": content[:50], "flipped": content, "empty": b""}[damage])
    assert np.array_equal(cache.quantize("F16", data, 64), expected)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    caplog.clear()
    assert np.array_equal(cache.quantize("F16", data, 64), expected)
    assert not caplog.records


def test_other_weights_have_other_files(tmp_path: Path) -> None:
    cache, data = int8.Cache(tmp_path), stored(torch.randn(4, 64), "F16")
    for layout, columns in (("F16", 64), ("BF16", 64), ("F16", 32)):
        assert np.array_equal(cache.quantize(layout, data, columns), int8.quantize(layout, data, columns))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache, data = int8.Cache(tmp_path / "file"), stored(torch.randn(4, 64), "F16")
    for _ in range(2):
        assert np.array_equal(cache.quantize("F16", data, 64), int8.quantize("F16", data, 64))
    assert len(caplog.records) == 1
    assert "made anew at every start" in caplog.text


def test_a_model_is_served_from_integers_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny_model(tmp_path, hidden_size=64, intermediate_size=96, dtype=torch.bfloat16)
    scores = {}
    for quantize in (None, "int8"):
        config = Config(model=Model(quantize=quantize), batching=Batching(max_batch_total_tokens=512))
        runner = ModelRunner.load(open_checkpoint(tmp_path), config=config)
        driver = Driver(runner)
        sequence = driver.add(list(range(1, 40)), longest=60, score=True)
        driver.step((sequence, len(sequence.ids)))
        scores[quantize] = np.array(list(sequence.logprobs.values()))
        assert (runner.quantize, runner.dtype) == (quantize, "bfloat16")
    assert not np.array_equal(scores[None], scores["int8"])
    # Random weights magnify what is rounded far more than learnt ones do.
    assert abs(scores["int8"].mean() - scores[None].mean()) < 0.1
    np.testing.assert_allclose(scores["int8"], scores[None], atol=1.0)
    assert list((tmp_path / "cache" / "tgi" / "int8").iterdir())


def test_tables_of_vectors_stay_floats(tmp_path: Path) -> None:
    tiny_model(tmp_path, hidden_size=64, intermediate_size=96, tie_word_embeddings=True)
    load = Loader(open_checkpoint(tmp_path), convert=int8.quantize)
    config = open_checkpoint(tmp_path).config
    size = {"rows": config["vocab_size"], "columns": 64}
    table = load.embedding("model.embed_tokens", **size).table
    head = load.lm_head("lm_head", embedding="model.embed_tokens", tied=True, **size).weight.parts[0]
    assert (table.layout, head.layout) == ("F32", "Q8_0")


def test_weights_that_cannot_be_integers_are_refused(tmp_path: Path) -> None:
    tiny_model(tmp_path, hidden_size=48, intermediate_size=40, num_attention_heads=3, num_key_value_heads=3)
    config = Config(model=Model(quantize="int8"), batching=Batching(max_batch_total_tokens=512))
    with pytest.raises(ModelError, match="nothing to multiply in integers") as refusal:
        ModelRunner.load(open_checkpoint(tmp_path), config=config)
    assert refusal.value.hint
