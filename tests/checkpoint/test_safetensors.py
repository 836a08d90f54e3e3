"""Safetensors: read as the safetensors library does, and crafted files refused (spec/reliability.md V26)."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tgi.checkpoint.safetensors import INDEX, SafetensorsCheckpoint, open_folder, read_config
from tgi.errors import ModelError

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}


def write(path: Path, header: Any, data: bytes = bytes(32), length: int | None = None) -> Path:
    """A file with any header, honest or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    (path.parent / "config.json").write_text('{"model_type": "llama"}')
    return path


def cut(path: Path, length: int) -> Path:
    """A file that ends early."""
    write(path, {})
    path.write_bytes(path.read_bytes()[:length])
    return path


def open_file(path: Path) -> SafetensorsCheckpoint:
    return SafetensorsCheckpoint(path.parent, (path,))


def test_tensors_are_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(3, dtype=np.int64),
        "nothing": np.empty((0, 4), dtype=np.float32),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = open_folder(tmp_path)
    assert checkpoint is not None
    assert checkpoint.names() == tensors.keys()
    assert checkpoint.config == {"model_type": "llama"}
    for name, expected in tensors.items():
        tensor = checkpoint.tensor(name)
        assert tensor.shape == expected.shape
        assert tensor.data.tobytes() == expected.tobytes()
    assert [checkpoint.tensor(name).layout for name in ("f32", "f16", "scalar")] == ["F32", "F16", "I64"]


def test_a_missing_tensor_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    checkpoint = open_file(write(tmp_path / "model.safetensors", {"norm.weight": A, "b": B}))
    with pytest.raises(ModelError, match=r"no tensor `norm.weigth`") as refusal:
        checkpoint.tensor("norm.weigth")
    assert refusal.value.hint == "nearest names: norm.weight"


CRAFTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "too short": (lambda path: cut(path, 7), "too few for a header"),
    "header over the limit": (lambda path: write(path, {}, length=1 << 60), "over the limit of 100000000"),
    "header beyond the end": (lambda path: write(path, {}, length=1000), "the header is 1000 bytes long"),
    "header no JSON": (lambda path: write(path, b"\xff\xfe{}"), "not a JSON object"),
    "header no object": (lambda path: write(path, [1, 2]), "not a JSON object"),
    "nested without end": (lambda path: write(path, b'{"a":' + b"[" * 2_000_000), "not a JSON object"),
    "hole": (lambda path: write(path, {"a": A, "b": B | {"data_offsets": [26, 34]}}, bytes(34)), "`b` leaves a hole"),
    "hole at the start": (lambda path: write(path, {"b": B}), "`b` leaves a hole"),
    "overlap": (lambda path: write(path, {"a": A, "b": B | {"data_offsets": [20, 28]}}), "`b` overlaps"),
    "bytes nobody owns": (lambda path: write(path, {"a": A, "b": B}, bytes(40)), "the tensors end at byte"),
    "beyond the end": (lambda path: write(path, {"a": A, "b": B}, bytes(30)), "`b` ends at byte"),
    "offsets backwards": (lambda path: write(path, {"a": A | {"data_offsets": [24, 0]}}), "offsets 24 to 0"),
    "size of another shape": (lambda path: write(path, {"a": A | {"shape": [2, 4]}, "b": B}), r"takes 32 bytes, .*24"),
    "negative dimension": (lambda path: write(path, {"a": A | {"shape": [-2, -3]}, "b": B}), r"shape \[-2, -3\]"),
    "product over 2^64": (lambda path: write(path, {"a": A | {"shape": [1 << 33, 1 << 33]}, "b": B}), "takes 295147"),
    "unknown type": (lambda path: write(path, {"a": A | {"dtype": "F31"}, "b": B}), "unknown type `F31`"),
    "no offsets": (lambda path: write(path, {"a": {"dtype": "F32", "shape": []}}), "described wrongly"),
    "tensors without end": (lambda path: write(path, b'{"":' + b'"",' * 700_000), "more than 100000 tensors"),
    "shape without end": (lambda path: write(path, {"a": A | {"shape": [1] * 1_000_000}}), "takes 3000"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_by_name_and_fault_with_little_memory(name: str, tmp_path: Path) -> None:
    craft, fault = CRAFTED[name]
    path = craft(tmp_path / "model.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=fault) as refusal:
        open_file(path)
    assert refusal.value.exit_code == 16
    assert str(path) in refusal.value.message
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 100 << 20


def sharded(folder: Path, weight_map: dict[str, str]) -> Path:
    write(folder / "one.safetensors", {"a": A | {"data_offsets": [0, 24]}}, bytes(24))
    write(folder / "two.safetensors", {"b": B | {"data_offsets": [0, 8]}}, bytes(8))
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}))
    return folder


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    checkpoint = open_folder(sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert checkpoint is not None
    assert checkpoint.names() == {"a", "b"}
    assert checkpoint.tensor("b").layout == "BF16"


@pytest.mark.parametrize(
    ("weight_map", "fault"),
    [
        ({"a": "one.safetensors", "c": "two.safetensors"}, "promises tensor `c`"),
        ({"a": "three.safetensors"}, r"three.safetensors` is missing"),
        ({"a": "../one.safetensors"}, "not a .safetensors file inside the folder"),
        ({"a": "/etc/one.safetensors"}, "not a .safetensors file inside the folder"),
        ({"a": "..\\one.safetensors"}, "not a .safetensors file inside the folder"),
        ({"a": "passwd"}, "not a .safetensors file inside the folder"),
    ],
)
def test_an_index_that_lies_or_leaves_the_folder_is_refused(
    weight_map: dict[str, str], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=fault) as refusal:
        open_folder(sharded(tmp_path, weight_map))
    assert refusal.value.exit_code == 16


def test_an_index_that_is_no_index_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path, {})
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(ModelError, match="no index of tensors"):
        open_folder(tmp_path)
    (tmp_path / INDEX).write_bytes(b'{"weight_map": {' + b'"":"",' * 600_000)
    with pytest.raises(ModelError, match="names more than 500000 tensors"):
        open_folder(tmp_path)


def test_files_without_index_are_read_together_unless_they_clash(tmp_path: Path) -> None:
    sharded(tmp_path, {})
    (tmp_path / INDEX).unlink()
    write(tmp_path / "consolidated.safetensors", {"a": A, "b": B})  # Mistral's second copy
    checkpoint = open_folder(tmp_path)
    assert checkpoint is not None
    assert checkpoint.names() == {"a", "b"}
    write(tmp_path / "zzz.safetensors", {"a": A, "b": B})
    with pytest.raises(ModelError, match="`a` is in another file"):
        open_folder(tmp_path)


@pytest.mark.parametrize(("text", "code"), [(None, 12), ("{", 16), ("[]", 16), ("\udcff", 16), (" " * 5_000_000, 16)])
def test_a_missing_or_broken_config_is_refused(text: str | None, code: int, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json") as refusal:
        read_config(tmp_path)
    assert refusal.value.exit_code == code
