"""Pickled weights become safetensors with the same values; what is more than tensors is never run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tgi.checkpoint import open_checkpoint
from tgi.conversion.pickles import convert, without_ties
from tgi.errors import ModelError


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_values_are_the_same_and_tied_weights_are_written_once(zipped: bool, tmp_path: Path) -> None:
    embedding = torch.randn(8, 4)
    whole = torch.arange(10.0)
    state = {
        "model.embed_tokens.weight": embedding, "lm_head.weight": embedding,
        "norm": torch.ones(4, dtype=torch.bfloat16),
        "part": whole[2:5], "rest": whole[5:], "turned": torch.arange(6).reshape(2, 3).T,
    }  # fmt: skip
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert convert(str(tmp_path), ["pytorch_model.bin"]) == ["model.safetensors"]
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == state.keys() - {"lm_head.weight"}
    assert all(torch.equal(read[name], state[name]) for name in read)


def test_shards_get_an_index_that_our_reader_takes(tmp_path: Path) -> None:
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    torch.save({"a": torch.ones(2)}, tmp_path / names[0])
    torch.save({"b": torch.zeros(3)}, tmp_path / names[1])
    (tmp_path / "config.json").write_text("{}")
    convert(str(tmp_path), names)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"
    }  # fmt: skip
    assert index["metadata"] == {"total_size": 20}
    assert open_checkpoint(tmp_path).names() == {"a", "b"}


def test_a_training_checkpoint_gives_its_table_of_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "medusa.pt")
    assert convert(str(tmp_path), ["medusa.pt"]) == ["medusa.safetensors"]


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_code_in_a_pickle_is_not_run(kind: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "marker"
    if kind == "zip":
        torch.save({"a": Marker(str(marker))}, path)
    else:
        path.write_bytes(pickle.dumps(Marker(str(marker)), protocol=2))
    with pytest.raises(ModelError, match="holds more than tensors") as refusal:
        convert(str(tmp_path), [path.name])
    assert refusal.value.exit_code == 16
    assert not marker.exists()
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save([torch.ones(2)] if damage == "list" else {"a": torch.ones(50)}, path)
    if damage != "list":
        path.write_bytes({"empty": b"", "cut": path.read_bytes()[:300], "text": b"<html>"}[damage])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin") as refusal:
        convert(str(tmp_path), [path.name])
    assert refusal.value.exit_code == 16


def test_empty_tensors_are_not_taken_for_one() -> None:
    assert without_ties({"a": torch.empty(0), "b": torch.empty(0)}).keys() == {"a", "b"}
