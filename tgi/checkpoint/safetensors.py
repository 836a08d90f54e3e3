"""Reads safetensors: one file, or the shards of an index.

The file is untrusted until its header is checked: the length of the header, that every tensor's bytes are exactly what
its type and shape need, and that the tensors cover the data without overlap or hole (spec/reliability.md, V26).

Source: the format's description in the safetensors library: 8 bytes header length, JSON header, data.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tgi.checkpoint.mapping import corrupt, map_file
from tgi.checkpoint.tensors import RawTensor, missing_tensor
from tgi.errors import ModelError

INDEX = "model.safetensors.index.json"

_MAX_JSON_BYTES = 100_000_000
_MAX_CONFIG_BYTES = 4_000_000
_MAX_ENTRY_BYTES = 4096  # one tensor's description; honest ones take about a hundred
_MAX_TENSORS = 100_000  # in one file; the largest models have fewer in all their files together
_MAX_INDEXED = 500_000
_QUOTES_PER_TENSOR = 12  # ten in its description, and some for metadata
_COUNTED_AT_ONCE = 1 << 20
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6,
}  # fmt: skip


class _Entry(msgspec.Struct):
    """One tensor in the header; the offsets count from the end of the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Place:
    file: npt.NDArray[np.uint8]
    dtype: str
    shape: tuple[int, ...]
    start: int  # in the file, in bytes
    end: int


class SafetensorsCheckpoint:
    """The tensors of one or several safetensors files, and the config.json beside them."""

    def __init__(self, folder: Path, files: tuple[Path, ...], promised: frozenset[str] = frozenset(),
                 config: dict[str, Any] | None = None) -> None:  # fmt: skip
        """Read the headers of `files`; `promised` are the tensors that an index says they hold.

        `config` is for files that come without a config.json, such as adapters.
        """
        self._folder = folder
        self._places: dict[str, _Place] = {}
        for path in files:
            places = _read_header(path)
            clash = self._places.keys() & places.keys()
            if clash:
                raise corrupt(path, f"tensor `{min(clash)}` is in another file of the folder too")
            self._places.update(places)
        missing = promised - self._places.keys()
        if missing:
            raise corrupt(folder / INDEX, f"it promises tensor `{min(missing)}`, which no file holds")
        self.config = read_config(folder) if config is None else config

    def names(self) -> frozenset[str]:
        """All tensor names."""
        return frozenset(self._places)

    def tensor(self, name: str) -> RawTensor:
        """One tensor. Raises: ModelError naming what is missing and the nearest names that exist."""
        place = self._places.get(name)
        if place is None:
            raise missing_tensor(self._folder, name, self._places)
        return RawTensor(name, place.dtype, place.shape, place.file[place.start : place.end])


def open_folder(folder: Path) -> SafetensorsCheckpoint | None:
    """The safetensors files of a model's folder: those its index names, else all; None when there are none.

    Raises: ModelError (exit 16) for an index that is no index, names a file outside the folder, or one that is missing.
    """
    if (folder / INDEX).exists():
        weight_map = _read_index(folder)
        files = tuple(folder / name for name in sorted(set(weight_map.values())))
        for file in files:
            if not file.exists():
                raise ModelError(f"`{file}` is missing, though `{INDEX}` names it",
                                 hint="download the model again", exit_code=16)  # fmt: skip
        return SafetensorsCheckpoint(folder, files, frozenset(weight_map))
    single = folder / "model.safetensors"
    if single.exists():
        return SafetensorsCheckpoint(folder, (single,))
    # Mistral's repositories repeat the weights under other names in consolidated*.safetensors.
    files = tuple(file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith("consolidated"))
    return SafetensorsCheckpoint(folder, files) if files else None


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises: ModelError when it is missing (exit 12) or not a JSON object (exit 16)."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise corrupt(path, f"larger than {_MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"`{folder}` has no config.json",
                         hint="give the folder that transformers' `save_pretrained` or the hub wrote, or a .gguf file",
                         exit_code=12) from error  # fmt: skip
    except (ValueError, RecursionError, OSError) as error:
        raise corrupt(path, f"not readable as JSON ({error})") from error
    if not isinstance(config, dict):
        raise corrupt(path, "not a JSON object")
    return config


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise corrupt(path, f"larger than {_MAX_JSON_BYTES} bytes")
        text = path.read_bytes()
        if text.count(b'"') > _MAX_INDEXED * 4 + _QUOTES_PER_TENSOR:
            raise corrupt(path, f"it names more than {_MAX_INDEXED} tensors")
        weight_map = msgspec.json.decode(text, type=_Index).weight_map
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise corrupt(path, f"no index of tensors ({error})") from error
    for name in set(weight_map.values()):
        if name in ("", ".", "..") or set(name) & set("/\\:\0") or not name.endswith(".safetensors"):
            raise corrupt(path, f"file name {name!r} is not a .safetensors file inside the folder")
    return weight_map


def _read_header(path: Path) -> dict[str, _Place]:
    """Where each tensor of the file lies, after all checks."""
    file = map_file(path)
    if file.size < 8:
        raise corrupt(path, f"{file.size} bytes are too few for a header")
    length = int.from_bytes(file[:8].tobytes(), "little")
    if length > _MAX_JSON_BYTES:
        raise corrupt(path, f"a header of {length} bytes is over the limit of {_MAX_JSON_BYTES}")
    if 8 + length > file.size:
        raise corrupt(path, f"the header is {length} bytes long, the file {file.size}")
    # An object of a few bytes costs a hundred in memory, so how many there may be is known before one is made.
    if _count_quotes(file[8 : 8 + length]) > _MAX_TENSORS * _QUOTES_PER_TENSOR:
        raise corrupt(path, f"the header describes more than {_MAX_TENSORS} tensors")
    try:
        header = msgspec.json.decode(file[8 : 8 + length].data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise corrupt(path, f"the header is not a JSON object of tensors ({error})") from error
    header.pop("__metadata__", None)
    places = {name: _place(path, file, 8 + length, name, raw) for name, raw in header.items()}
    _check_coverage(path, places, 8 + length, file.size)
    return places


def _count_quotes(header: npt.NDArray[np.uint8]) -> int:
    starts = range(0, header.size, _COUNTED_AT_ONCE)
    return sum(int(np.count_nonzero(header[start : start + _COUNTED_AT_ONCE] == ord('"'))) for start in starts)


def _place(path: Path, file: npt.NDArray[np.uint8], start: int, name: str, raw: msgspec.Raw) -> _Place:
    view = memoryview(raw)
    if len(view) > _MAX_ENTRY_BYTES:
        raise corrupt(path, f"the description of tensor `{name[:100]}` takes {len(view)} bytes")
    try:
        entry = msgspec.json.decode(view, type=_Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise corrupt(path, f"tensor `{name[:100]}` is described wrongly ({error})") from error
    begin, end = entry.data_offsets
    if entry.dtype not in _BITS:
        raise corrupt(path, f"tensor `{name[:100]}` has the unknown type `{entry.dtype[:100]}`")
    if min(entry.shape, default=0) < 0 or not 0 <= begin <= end:
        raise corrupt(path, f"tensor `{name[:100]}` has shape {entry.shape} and offsets {begin} to {end}")
    if start + end > file.size:
        raise corrupt(path, f"tensor `{name[:100]}` ends at byte {start + end}, the file at {file.size}")
    bits = math.prod(entry.shape) * _BITS[entry.dtype]
    if bits != 8 * (end - begin):
        raise corrupt(path, f"tensor `{name[:100]}` of {entry.dtype} {entry.shape} takes {bits / 8:.0f} bytes, "
                            f"its offsets hold {end - begin}")  # fmt: skip
    return _Place(file, entry.dtype, tuple(entry.shape), start + begin, start + end)


def _check_coverage(path: Path, places: dict[str, _Place], start: int, size: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    reached = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != reached:
            fault = "overlaps the one before it" if place.start < reached else "leaves a hole before it"
            raise corrupt(path, f"tensor `{name[:100]}` {fault}")
        reached = place.end
    if reached != size:
        raise corrupt(path, f"the tensors end at byte {reached}, the file at {size}")
