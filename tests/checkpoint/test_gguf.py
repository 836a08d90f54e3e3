"""GGUF: read as the `gguf` package does, and crafted files refused (spec/reliability.md V27)."""

from __future__ import annotations

import resource
import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from real_model import default_gguf

from tgi.checkpoint.gguf import GgufArray, GgufFile
from tgi.errors import ModelError

U32, STRING, ARRAY, F32 = 4, 8, 9, 0


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...] = (4,), kind: int = F32, offset: int = 0) -> bytes:
    """A tensor's description; `shape` innermost first, as the file has it."""
    return (text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape)
            + struct.pack("<IQ", kind, offset))  # fmt: skip


def craft(keys: list[bytes] = [], tensors: list[bytes] = [], data: int = 64, **header: Any) -> bytes:  # noqa: B006
    """A whole file, honest or not."""
    version = header.get("version", struct.pack("<I", 3))
    counts = struct.pack("<QQ", header.get("tensor_count", len(tensors)), header.get("key_count", len(keys)))
    head = header.get("magic", b"GGUF") + version + counts + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def test_the_real_file_is_read_as_the_gguf_package_reads_it() -> None:
    path = default_gguf()
    file, reference = GgufFile(path), gguf.GGUFReader(path)
    assert file.names() == {item.name for item in reference.tensors}
    for item in reference.tensors:
        found = file.tensor(item.name)
        assert found.layout == item.tensor_type.name
        assert found.shape == tuple(int(size) for size in reversed(item.shape))
        np.testing.assert_array_equal(found.data, np.asarray(item.data).view(np.uint8).reshape(-1))
    for name, field in reference.fields.items():
        if name.startswith("GGUF."):
            continue
        value, expected = file.metadata[name], field.contents()
        if not isinstance(value, GgufArray):
            assert value == expected
        elif field.types[-1] == gguf.GGUFValueType.STRING:
            assert file.strings(name) == expected
        else:
            assert file.numbers(name) == expected


def test_every_value_type_the_writer_knows_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    values: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        "u8": (200, gguf.GGUFValueType.UINT8),
        "i8": (-3, gguf.GGUFValueType.INT8),
        "u16": (60000, gguf.GGUFValueType.UINT16),
        "i16": (-300, gguf.GGUFValueType.INT16),
        "u32": (1 << 31, gguf.GGUFValueType.UINT32),
        "i32": (-5, gguf.GGUFValueType.INT32),
        "f32": (0.5, gguf.GGUFValueType.FLOAT32),
        "bool": (True, gguf.GGUFValueType.BOOL),
        "string": ("wörld", gguf.GGUFValueType.STRING),
        "u64": (1 << 63, gguf.GGUFValueType.UINT64),
        "i64": (-(1 << 62), gguf.GGUFValueType.INT64),
        "f64": (0.1, gguf.GGUFValueType.FLOAT64),
    }
    for name, (value, kind) in values.items():
        writer.add_key_value(name, value, kind)
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("names", ["a", "", "ü"])
    writer.add_tensor("half", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "a.gguf")
    for name, (value, _) in values.items():
        assert file.metadata[name] == value
    assert file.numbers("floats") == [0.5, 1.5]
    assert file.strings("names") == ["a", "", "ü"]
    assert file.tensor("half").shape == (2, 3)
    assert file.tensor("half").data.view("<f2").tolist() == [0, 1, 2, 3, 4, 5]


CRAFTED: dict[str, tuple[bytes, str, int]] = {
    "another format": (craft(magic=b"GGML"), "does not start as a GGUF file", 16),
    "cut in the header": (craft()[:10], "runs past the end", 16),
    "version 1": (craft(version=struct.pack("<I", 1)), "GGUF version 1", 18),
    "big-endian": (craft(version=struct.pack(">I", 3)), "big-endian", 18),
    "2^60 tensors": (craft(tensor_count=1 << 60), f"claims {1 << 60} tensors", 16),
    "2^60 keys": (craft(key_count=1 << 60), f"claims {1 << 60} metadata keys", 16),
    "one key too many": (craft([], [], key_count=2), "occurs twice", 16),
    "string beyond the end": (craft([key("a", STRING, struct.pack("<Q", 1 << 40))]), f"claims {1 << 40} bytes", 16),
    "string no UTF-8": (craft([key("a", STRING, text(b"\xff"))]), "`a` is not UTF-8", 16),
    "2^60 numbers": (craft([key("a", ARRAY, struct.pack("<IQ", U32, 1 << 60))]), f"claims {1 << 60} values", 16),
    "2^61 strings": (craft([key("a", ARRAY, struct.pack("<IQ", STRING, 1 << 61))]), f"claims {1 << 61} strings", 16),
    "strings past the end": (
        craft([key("a", ARRAY, struct.pack("<IQ", STRING, 2) + text("x") + struct.pack("<Q", (1 << 64) - 1))]),
        "`a` runs past the end", 16,
    ),
    "array of arrays": (craft([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "unsupported value type 9", 16),
    "unknown value type": (craft([key("a", 99, b"")]), "unknown value type 99", 16),
    "key twice": (craft([key("a", U32, bytes(4))] * 2), "`a` occurs twice", 16),
    "alignment zero": (craft([key("general.alignment", U32, bytes(4))]), "alignment of 0", 16),
    "alignment odd": (craft([key("general.alignment", U32, struct.pack("<I", 33))]), "alignment of 33", 16),
    "alignment huge": (craft([key("general.alignment", U32, struct.pack("<I", 1 << 30))]), "alignment of 1073", 16),
    "tensor beyond the end": (craft([], [tensor("t", (1024,))]), "`t` ends at byte", 16),
    "offset beyond the end": (craft([], [tensor("t", offset=1 << 62)]), "`t` ends at byte", 16),
    "offset not aligned": (craft([], [tensor("t", offset=4)]), "`t` starts at 4", 16),
    "product over 2^64": (craft([], [tensor("t", (1 << 40, 1 << 40))]), "`t` ends at byte", 16),
    "zero dimension": (craft([], [tensor("t", (4, 0))]), "impossible shape", 16),
    "part of a block": (craft([], [tensor("t", (31,), kind=2)]), "of Q4_0 has the impossible shape", 16),
    "no dimension": (craft([], [tensor("t", ())]), "has 0 dimensions", 16),
    "2^31 dimensions": (craft([], [text("t") + struct.pack("<I", 1 << 31) + bytes(32)]), "dimensions", 16),
    "unknown tensor type": (craft([], [tensor("t", kind=999)]), "unknown type 999", 16),
    "type not read": (craft([], [tensor("t", (256,), kind=23)]), "stores tensor `t` as IQ4_XS", 18),
    "tensor twice": (craft([], [tensor("t"), tensor("t", offset=32)]), "`t` occurs twice", 16),
    "overlap": (craft([], [tensor("t", (16,)), tensor("u", offset=32)]), "`u` overlaps", 16),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_by_name_and_fault_with_little_memory(name: str, tmp_path: Path) -> None:
    content, fault, code = CRAFTED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=fault) as refusal:
        GgufFile(path)
    assert refusal.value.exit_code == code
    assert str(path) in refusal.value.message
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 50 << 20


def test_a_header_cut_anywhere_is_refused(tmp_path: Path) -> None:
    keys = [key("a", ARRAY, struct.pack("<IQ", STRING, 2) + text("x") + text("yz")), key("b", U32, bytes(4))]
    whole = craft(keys, [tensor("t")], data=16)
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    assert GgufFile(path).names() == {"t"}
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            GgufFile(path)


def test_metadata_of_another_type_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(craft([key("n", U32, struct.pack("<I", 7)), key("s", STRING, text("x"))]))
    file = GgufFile(path)
    assert file.get("n", int) == 7
    assert file.get("n", float) == 7.0
    assert file.get("absent", int, 3) == 3
    assert file.strings("absent") == []
    assert file.numbers("absent") == []
    for ask in (lambda: file.get("n", str), lambda: file.get("absent", int), lambda: file.strings("s")):
        with pytest.raises(ModelError) as refusal:
            ask()
        assert refusal.value.exit_code == 16
