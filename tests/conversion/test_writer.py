"""What is written, the safetensors library reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tgi.conversion.writer import TORCH_TYPES, Outline, write_safetensors


def test_every_type_comes_back(tmp_path: Path) -> None:
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in TORCH_TYPES.items()}
    tensors |= {"empty": torch.empty(0, 4), "scalar": torch.tensor(3.0)}
    outlines = {name: Outline(value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    write_safetensors(tmp_path / "m.safetensors", outlines, tensors.__getitem__)
    read = load_file(tmp_path / "m.safetensors")
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        assert torch.equal(read[name].view(torch.uint8), value.view(torch.uint8)) if value.ndim else True


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken(name: str) -> torch.Tensor:
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_safetensors(tmp_path / "m.safetensors", {"a": Outline(torch.float32, (1,))}, broken)
    with pytest.raises(ValueError, match="complex64"):
        write_safetensors(tmp_path / "m.safetensors", {"a": Outline(torch.complex64, (1,))}, broken)
    assert list(tmp_path.iterdir()) == []
