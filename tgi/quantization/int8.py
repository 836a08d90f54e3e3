"""`--quantize int8`: float weights as 8-bit integers in groups of 32 columns, each group with a scale of its own.

The result is stored as GGUF's Q8_0, which the kernels multiply with activations in 8 bits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tgi.checkpoint.blocks import dequantize
from tgi.checkpoint.layouts import BLOCKS, row_bytes
from tgi.checkpoint.mapping import map_file
from tgi.errors import ModelError

log = logging.getLogger(__name__)

LAYOUT = "Q8_0"
GROUP = BLOCKS[LAYOUT][0]

_DIGEST_BYTES = 32
# Goes into a file's name: another way to round must never read these files.
_VERSION = b"tgi int8 groups of 32, half-precision scales, 1"
# Values converted at once: the temporaries stay in the processor's cache.
_STEP_VALUES = 1 << 16

Bytes = npt.NDArray[np.uint8]
Convert = Callable[[str, Bytes, int], Bytes]
"""A way to get a matrix of floats as Q8_0, as `quantize` and `Cache.quantize` are: layout, data, columns."""


def quantize(layout: str, data: Bytes, columns: int) -> Bytes:
    """A matrix of floats as Q8_0.

    A group's scale is its largest magnitude / 127, rounded to half precision; a weight is the nearest multiple of that
    scale, so it is off by half a scale at most. Weights that are not finite stay that: their group's scale is NaN.

    Shapes: data [rows * columns * item size] uint8, in "F32", "F16" or "BF16"; columns a multiple of 32; returns
    [rows * columns / 32 * 34] uint8.
    """
    stored = np.ascontiguousarray(data)
    item = BLOCKS[layout][1]
    size = row_bytes(LAYOUT, columns)
    out = np.empty(stored.size // (columns * item) * size, dtype=np.uint8)
    blocks = out.view(np.dtype([("scale", "<f2"), ("integers", "i1", GROUP)]))
    for start in range(0, len(blocks), _STEP_VALUES // GROUP):
        piece = blocks[start : start + _STEP_VALUES // GROUP]
        groups = dequantize(layout, stored[start * GROUP * item : (start + len(piece)) * GROUP * item], GROUP)
        with np.errstate(invalid="ignore", over="ignore"):
            scale = (np.abs(groups).max(axis=1) / np.float32(127)).astype(np.float16)
            scale[~np.isfinite(scale)] = np.nan
            step = scale.astype(np.float32)[:, None]
            inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
            integers = np.clip(np.rint(groups * inverse), -127, 127)
        piece["scale"] = scale
        piece["integers"] = np.nan_to_num(integers).astype(np.int8)
    return out


class Cache:
    """Converted matrices on disk, by a hash of what they were made of; a damaged file is made again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writable = True

    def quantize(self, layout: str, data: Bytes, columns: int) -> Bytes:
        """As the function `quantize`; the result is read from its file where that exists, and written to it if not."""
        path = self._folder / f"{_digest(layout, data, columns)}.q8_0"
        size = data.size // (columns * BLOCKS[layout][1]) * row_bytes(LAYOUT, columns)
        found = _read(path, size)
        if found is not None:
            return found
        made = quantize(layout, data, columns)
        if self._writable:
            self._write(path, made)
        return made

    def _write(self, path: Path, made: Bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
                try:
                    file.write(made.data)
                    file.write(hashlib.sha256(made.data).digest())
                    file.flush()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            self._writable = False
            log.warning("cannot keep converted weights in %s (%s); they are made anew at every start",
                        self._folder, error.strerror or error)  # fmt: skip


def _digest(layout: str, data: Bytes, columns: int) -> str:
    digest = hashlib.sha256(b"%s %s %d " % (_VERSION, layout.encode(), columns))
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def _read(path: Path, size: int) -> Bytes | None:
    try:
        stored = map_file(path)
    except ModelError:  # missing, not readable, or empty
        return None
    if stored.size != size + _DIGEST_BYTES:
        log.warning("%s is not as it was written; it is made again", path)
        return None
    content: Bytes = stored[:size]
    if hashlib.sha256(content.data).digest() != stored[size:].tobytes():
        log.warning("%s is not as it was written; it is made again", path)
        return None
    return content
