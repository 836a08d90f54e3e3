"""A loader finds weights under any of their names, checks them, and copies only what it must."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.layers.checkpoints import MemoryCheckpoint
from tests.resident import resident_bytes
from tgi.checkpoint import RawTensor
from tgi.checkpoint.mapping import map_file
from tgi.errors import ModelError
from tgi.layers.loader import Loader
from tgi.quantization import int8

W = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 10
X = torch.tensor([[1.0, -2.0, 0.5, 3.0]])


def loader(dtype: torch.dtype | None = None, **tensors: Tensor | RawTensor) -> Loader:
    named = {name.replace("__", "."): value for name, value in tensors.items()}
    return Loader(MemoryCheckpoint(named), dtype=None if dtype is None else str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("prefix", ["", "model.", "transformer.", "language_model.model.", "model.language_model."])
@pytest.mark.parametrize("asked", ["layers.0", "model.layers.0"])
def test_outer_prefixes_do_not_matter(prefix: str, asked: str) -> None:
    load = Loader(MemoryCheckpoint({f"{prefix}layers.0.norm.weight": torch.ones(3)}))

    assert load.at(asked).at("norm").tensor("weight", 3).tolist() == [1.0, 1.0, 1.0]
    assert load.unread() == []


def test_columns_lie_side_by_side_and_are_not_copied() -> None:
    first, second = W.clone(), W[:1].clone()
    load = loader(q__weight=first, k__weight=second)

    linear = load.column("q", "k", inputs=4, outputs=(3, 1))

    torch.testing.assert_close(linear(X), X @ torch.cat([first, second]).T)
    assert linear.bias is None
    assert linear.weight.parts[0].data.ctypes.data == first.data_ptr()


def test_biases_lie_side_by_side_and_a_missing_one_is_zero() -> None:
    load = loader(q__weight=W, k__weight=W, k__bias=torch.tensor([1.0, 2.0, 3.0]))

    linear = load.column("q", "k", inputs=4, outputs=(3, 3))

    assert linear.bias is not None
    assert linear.bias.tolist() == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]


def test_a_bias_is_left_when_the_configuration_says_there_is_none_and_missed_when_it_says_there_is() -> None:
    load = loader(q__weight=W, q__bias=torch.ones(3), o__weight=W)

    assert load.column("q", inputs=4, outputs=(3,), bias=False).bias is None
    assert load.unread() == ["o.weight", "q.bias"]
    with pytest.raises(ModelError, match=r"o\.bias"):
        load.row("o", inputs=4, outputs=3, bias=True)


def test_a_row_adds_to_its_residual() -> None:
    residual = torch.ones(1, 3)

    result = loader(o__weight=W, o__bias=torch.ones(3)).row("o", inputs=4, outputs=3)(X, residual)

    torch.testing.assert_close(result, X @ W.T + 2)
    assert result.data_ptr() == residual.data_ptr()


def test_transposed_weights_are_turned_once() -> None:
    linear = loader(c__weight=W).column("c", inputs=3, outputs=(4,), transposed=True)

    torch.testing.assert_close(linear(X[:, :3]), X[:, :3] @ W)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", [torch.float32, torch.float16, torch.bfloat16])
def test_float_weights_are_cast_to_the_type_asked_for(stored: torch.dtype, asked: torch.dtype) -> None:
    load = loader(asked, q__weight=W.to(stored))

    linear = load.column("q", inputs=4, outputs=(3,))

    torch.testing.assert_close(linear(X), X @ W.to(stored).to(asked).float().T)
    assert load.weight_bytes == 12 * asked.itemsize
    assert load.layout == {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[asked]


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux shows them")
@pytest.mark.parametrize("convert", [None, int8.quantize])
def test_a_weight_held_in_another_form_is_not_in_memory_as_stored(
    tmp_path: Path, convert: int8.Convert | None
) -> None:  # fmt: skip
    path = tmp_path / "weights"
    path.write_bytes(torch.randn(256, 256).numpy().tobytes())
    tensors: dict[str, Tensor | RawTensor] = {"q.weight": RawTensor("q.weight", "F32", (256, 256), map_file(path))}
    load = Loader(MemoryCheckpoint(tensors), dtype=None if convert else "float16", convert=convert)
    load.row("q", inputs=256, outputs=256)
    assert resident_bytes(path) == 0


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_vectors_are_float32(stored: torch.dtype) -> None:
    vector = loader(n__weight=W[1].to(stored)).tensor("n.weight", 4)

    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, W[1].to(stored).float())


def test_quantised_weights_stay_as_they_are_whatever_the_type_asked_for() -> None:
    raw = RawTensor("q.weight", "Q8_0", (2, 32), np.zeros(68, dtype=np.uint8))
    load = loader(torch.bfloat16, q__weight=raw)

    part = load.column("q", inputs=32, outputs=(2,)).weight.parts[0]

    assert part.layout == "Q8_0"
    assert part.data is raw.data
    assert load.layout == "Q8_0"


def test_a_shape_that_contradicts_the_configuration_is_refused() -> None:
    load = loader(q__weight=W, n__weight=W[0])

    with pytest.raises(ModelError, match=r"`q.weight` has shape \[3, 4\]; config.json asks for \[3, 5\]") as caught:
        load.column("q", inputs=5, outputs=(3,))
    assert caught.value.exit_code == 16
    with pytest.raises(ModelError, match=r"`n.weight` has shape"):
        load.tensor("n.weight", 5)


def test_a_layout_that_no_kernel_reads_is_refused() -> None:
    with pytest.raises(ModelError, match=r"`q.weight` is stored as I32") as caught:
        loader(q__weight=W.to(torch.int32)).column("q", inputs=4, outputs=(3,))

    assert caught.value.exit_code == 18


def test_quantised_weights_cannot_be_turned() -> None:
    raw = RawTensor("c.weight", "Q8_0", (2, 32), np.zeros(68, dtype=np.uint8))

    with pytest.raises(ModelError, match="transposed and stored as Q8_0"):
        loader(c__weight=raw).column("c", inputs=2, outputs=(32,), transposed=True)


HEAD, TABLE = {"lm_head__weight": W + 1}, {"model__embed__weight": W}


@pytest.mark.parametrize(
    ("tensors", "tied", "expected"),
    [
        (TABLE, True, W),
        (TABLE, False, W),  # no head at all: tied, whatever config.json says
        (TABLE | HEAD, False, W + 1),
        (TABLE | HEAD, True, W + 1),  # two different tables: config.json is wrong
        (TABLE | {"lm_head__weight": W.clone()}, True, W),
    ],
)
def test_the_head_is_tied_as_the_checkpoint_shows(tensors: dict[str, Tensor], tied: bool, expected: Tensor) -> None:
    load = loader(**tensors)
    load.embedding("model.embed", rows=3, columns=4)

    head = load.lm_head("lm_head", embedding="model.embed", tied=tied, rows=3, columns=4)

    torch.testing.assert_close(head(X), X @ expected.T)
    assert load.unread() == []


def test_a_tied_table_is_counted_once() -> None:
    load = loader(**TABLE)
    load.embedding("model.embed", rows=3, columns=4)
    load.lm_head("lm_head", embedding="model.embed", tied=True, rows=3, columns=4)

    assert load.weight_bytes == W.nbytes


def test_tensors_nobody_asked_for_are_reported_but_buffers_are_not(caplog: pytest.LogCaptureFixture) -> None:
    load = loader(
        q__weight=W, odd__weight=W, h__0__attn__bias=W, h__0__attn__masked_bias=W, layers__0__rotary_emb__inv_freq=W
    )
    load.column("q", inputs=4, outputs=(3,))

    with caplog.at_level(logging.WARNING):
        load.report_unread()

    assert load.unread() == ["odd.weight"]
    assert "1 tensors of the checkpoint are not used, such as `odd.weight`" in caplog.text
