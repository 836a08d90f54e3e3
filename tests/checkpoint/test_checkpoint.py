"""`open_checkpoint` finds the format, or says what to do."""

from __future__ import annotations

import pickle
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy

from tgi.checkpoint import open_checkpoint
from tgi.checkpoint.gguf_models import GgufCheckpoint
from tgi.checkpoint.safetensors import SafetensorsCheckpoint
from tgi.errors import ModelError

from .test_gguf_models import write_model


def write_safetensors(folder: Path) -> Path:
    safetensors.numpy.save_file({"a": np.zeros(2, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder / "model.safetensors"


def test_files_and_folders_of_both_formats_are_opened(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    model = write_model(tmp_path / "gguf" / "model.gguf", "qwen2")
    assert isinstance(open_checkpoint(model), GgufCheckpoint)
    assert isinstance(open_checkpoint(model.parent), GgufCheckpoint)
    assert isinstance(open_checkpoint(write_safetensors(tmp_path)), SafetensorsCheckpoint)
    assert isinstance(open_checkpoint(tmp_path), SafetensorsCheckpoint)
    assert gguf.GGUF_VERSION == 3


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="only pickled weights") as refusal:
        open_checkpoint(tmp_path)
    assert refusal.value.exit_code == 16
    assert f"`tgi download --convert {tmp_path}`" in (refusal.value.hint or "")
    assert not marker.exists()


def test_several_gguf_files_ask_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"holds 2 \.gguf files") as refusal:
        open_checkpoint(tmp_path)
    assert refusal.value.hint == "give the path of one of them: a.gguf, b.gguf"


@pytest.mark.parametrize(("name", "code"), [("absent", 12), ("absent.gguf", 12), (".", 12), ("notes.txt", 18)])
def test_what_holds_no_weights_is_refused(name: str, code: int, tmp_path: Path) -> None:
    if name == "notes.txt":
        (tmp_path / name).touch()
    with pytest.raises(ModelError) as refusal:
        open_checkpoint(tmp_path / name)
    assert refusal.value.exit_code == code
