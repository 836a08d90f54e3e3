"""Reads GGUF: metadata and tensors of one mapped file.

The file is untrusted: every count is checked against the bytes that are left before anything of that size is made, and
every tensor must lie inside the file, in a layout whose size is known (spec/reliability.md, V27).

Source: the GGUF specification of the ggml project; spec/quantization.md section 8.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tgi.checkpoint.layouts import BLOCKS
from tgi.checkpoint.mapping import corrupt, map_bytes
from tgi.checkpoint.tensors import RawTensor, missing_tensor
from tgi.errors import ModelError

T = TypeVar("T")

_SCALARS = {  # value type id -> its little-endian format
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

_LAYOUTS = {  # tensor type id -> layout
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
}  # fmt: skip
_NOT_READ = {  # known to the format, not to tgi
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_SIZES = {**BLOCKS, "I8": (1, 1), "I16": (1, 2), "I32": (1, 4), "I64": (1, 8), "F64": (1, 8)}

_MAX_NAME_BYTES = 65535  # of a key, by the specification; tensor names are far shorter
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 20
_LEAST_KEY_BYTES = 8 + 4 + 1  # an empty key, its type, one byte of value
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # an empty name, one dimension, type and offset


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of the metadata, decoded only when it is asked for (`GgufFile.strings`, `GgufFile.numbers`)."""

    element: int  # value type id
    count: int
    start: int  # in the file, in bytes


@dataclass(frozen=True, slots=True)
class _Tensor:
    layout: str
    shape: tuple[int, ...]
    start: int  # in the file, in bytes
    size: int


class GgufFile:
    """One GGUF file: its metadata by the names of the file, its tensors by the names of the file.

    Raises: ModelError with exit code 16 for a damaged file, 18 for one that is sound but not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = map_bytes(path)
        reader = _Reader(path, self._bytes)
        tensor_count, key_count = reader.start()
        self.metadata: Mapping[str, Any] = reader.metadata(key_count)
        self._tensors = reader.tensors(tensor_count, self._alignment())

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """A single value of the metadata. Raises: ModelError (exit 16) when it is missing, or not of type `kind`."""
        value = self.metadata.get(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            fault = "is missing" if value is None else f"is not a {kind.__name__}"
            raise corrupt(self.path, f"metadata `{key}` {fault}")
        return value

    def strings(self, key: str) -> list[str]:
        """An array of strings; empty when the key is absent. Raises: ModelError (exit 16) when it is something else."""
        array = self._array(key)
        if array is None:
            return []
        if array.element != _STRING:
            raise corrupt(self.path, f"metadata `{key}` is not an array of strings")
        unpack, data, offset = struct.Struct("<Q").unpack_from, self._bytes, array.start
        found = []
        try:
            for _ in range(array.count):
                end = offset + 8 + unpack(data, offset)[0]
                found.append(str(data[offset + 8 : end], "utf-8"))
                offset = end
        except UnicodeDecodeError as error:
            raise corrupt(self.path, f"metadata `{key}` is not UTF-8 ({error})") from error
        return found

    def numbers(self, key: str) -> list[Any]:
        """An array of numbers; empty when the key is absent.

        Raises: ModelError (exit 16) when it is something else.
        """
        array = self._array(key)
        if array is None:
            return []
        if array.element not in _SCALARS:
            raise corrupt(self.path, f"metadata `{key}` is not an array of numbers")
        return list(struct.unpack_from(f"<{array.count}{_SCALARS[array.element][1]}", self._bytes, array.start))

    def names(self) -> frozenset[str]:
        """The names of all tensors, as the file has them."""
        return frozenset(self._tensors)

    def tensor(self, name: str) -> RawTensor:
        """One tensor by the file's name. Raises: ModelError naming what is missing and the nearest names that exist."""
        import numpy as np  # noqa: PLC0415  (whoever reads a tokenizer alone does without)

        place = self._tensors.get(name)
        if place is None:
            raise missing_tensor(self.path, name, self._tensors)
        return RawTensor(name, place.layout, place.shape, np.frombuffer(self._bytes, np.uint8, place.size, place.start))

    def _array(self, key: str) -> GgufArray | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, GgufArray):
            raise corrupt(self.path, f"metadata `{key}` is not an array")
        return value

    def _alignment(self) -> int:
        alignment = self.get("general.alignment", int, 32)
        if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise corrupt(self.path, f"an alignment of {alignment} is no power of two up to {_MAX_ALIGNMENT}")
        return alignment


class _Reader:
    """Walks a GGUF header from its first byte to its last, never past the end of the file."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self._path = path
        self._data = data
        self._offset = 0

    def start(self) -> tuple[int, int]:
        """The magic number and version checked; returns the counts of tensors and of metadata keys."""
        if bytes(self._data[:4]) != b"GGUF":
            raise corrupt(self._path, "it does not start as a GGUF file does")
        self._offset = 4
        version = self._scalar("<I")
        if version & 0xFFFF == 0:
            raise self._unsupported("is a big-endian GGUF file", "use the little-endian file of the model")
        if version not in (2, 3):
            raise self._unsupported(f"is of GGUF version {version}", "use a file of version 2 or 3")
        tensor_count, key_count = self._scalar("<Q"), self._scalar("<Q")
        self._check_count("metadata keys", key_count, _LEAST_KEY_BYTES)
        self._check_count("tensors", tensor_count, _LEAST_TENSOR_BYTES)
        return tensor_count, key_count

    def metadata(self, count: int) -> dict[str, Any]:
        """All keys: numbers, booleans, strings, and `GgufArray`s."""
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self._string("a metadata key", _MAX_NAME_BYTES)
            if key in found:
                raise corrupt(self._path, f"metadata `{key}` occurs twice")
            kind = self._scalar("<I")
            if kind in _SCALARS:
                found[key] = self._scalar(_SCALARS[kind])
            elif kind == _STRING:
                found[key] = self._string(f"metadata `{key}`", len(self._data))
            elif kind == _ARRAY:
                found[key] = self._array(key)
            else:
                raise corrupt(self._path, f"metadata `{key}` has the unknown value type {kind}")
        return found

    def tensors(self, count: int, alignment: int) -> dict[str, _Tensor]:
        """Where each tensor lies; the data starts at the next multiple of `alignment`."""
        entries = [self._tensor_entry() for _ in range(count)]
        data_start = -(-self._offset // alignment) * alignment
        found: dict[str, _Tensor] = {}
        for name, layout, shape, offset in entries:
            values, block = _SIZES[layout]
            size = math.prod(shape) // values * block
            if name in found:
                raise corrupt(self._path, f"tensor `{name}` occurs twice")
            if offset % alignment:
                raise corrupt(self._path, f"tensor `{name}` starts at {offset}, no multiple of {alignment}")
            if data_start + offset + size > len(self._data):
                raise corrupt(self._path, f"tensor `{name}` ends at byte {data_start + offset + size}, "
                                          f"the file at {len(self._data)}")  # fmt: skip
            found[name] = _Tensor(layout, shape, data_start + offset, size)
        self._check_overlap(found)
        return found

    def _tensor_entry(self) -> tuple[str, str, tuple[int, ...], int]:
        name = self._string("a tensor name", _MAX_NAME_BYTES)
        dimensions = self._scalar("<I")
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise corrupt(self._path, f"tensor `{name}` has {dimensions} dimensions")
        shape = tuple(reversed([self._scalar("<Q") for _ in range(dimensions)]))
        kind, offset = self._scalar("<I"), self._scalar("<Q")
        if kind in _NOT_READ:
            raise self._unsupported(f"stores tensor `{name}` as {_NOT_READ[kind]}",
                                    f"use a file with other types: {', '.join(BLOCKS)}")  # fmt: skip
        if kind not in _LAYOUTS:
            raise corrupt(self._path, f"tensor `{name}` has the unknown type {kind}")
        layout = _LAYOUTS[kind]
        if min(shape) == 0 or shape[-1] % _SIZES[layout][0]:
            raise corrupt(self._path, f"tensor `{name}` of {layout} has the impossible shape {shape}")
        return name, layout, shape, offset

    def _check_overlap(self, tensors: dict[str, _Tensor]) -> None:
        reached = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            if tensor.start < reached:
                raise corrupt(self._path, f"tensor `{name}` overlaps the one before it")
            reached = tensor.start + tensor.size

    def _array(self, key: str) -> GgufArray:
        element, count = self._scalar("<I"), self._scalar("<Q")
        start = self._offset
        if element in _SCALARS:
            size = struct.calcsize(_SCALARS[element])
            self._check_count(f"values in metadata `{key}`", count, size)
            self._offset = start + count * size
        elif element == _STRING:
            self._check_count(f"strings in metadata `{key}`", count, 8)
            self._offset = self._end_of_strings(key, count)
        else:
            raise corrupt(self._path, f"metadata `{key}` is an array of the unsupported value type {element}")
        return GgufArray(element, count, start)

    def _end_of_strings(self, key: str, count: int) -> int:
        unpack, data, offset = struct.Struct("<Q").unpack_from, self._data, self._offset
        last = len(data) - 8
        for _ in range(count):
            if offset > last:
                raise corrupt(self._path, f"metadata `{key}` runs past the end of the file")
            offset += 8 + unpack(data, offset)[0]
        if offset > len(data):
            raise corrupt(self._path, f"metadata `{key}` runs past the end of the file")
        return offset

    def _scalar(self, layout: str) -> Any:
        end = self._offset + struct.calcsize(layout)
        if end > len(self._data):
            raise corrupt(self._path, "the header runs past the end of the file")
        value = struct.unpack_from(layout, self._data, self._offset)[0]
        self._offset = end
        return value

    def _string(self, what: str, longest: int) -> str:
        length = self._scalar("<Q")
        if length > min(longest, len(self._data) - self._offset):
            raise corrupt(self._path, f"{what} claims {length} bytes")
        end = self._offset + length
        try:
            text = str(self._data[self._offset : end], "utf-8")
        except UnicodeDecodeError as error:
            raise corrupt(self._path, f"{what} is not UTF-8 ({error})") from error
        self._offset = end
        return text

    def _check_count(self, what: str, count: int, least_bytes: int) -> None:
        if count * least_bytes > len(self._data) - self._offset:
            raise corrupt(self._path, f"it claims {count} {what}, more than the file has room for")

    def _unsupported(self, what: str, hint: str) -> ModelError:
        return ModelError(f"`{self._path}` {what}, which is not supported", hint=hint, exit_code=18)
