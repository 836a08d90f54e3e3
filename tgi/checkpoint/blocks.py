"""What the bytes of each storage layout mean in float32.

A block layout stores a fixed number of consecutive values of a row in a fixed number of bytes: small integers, and one
or two half-precision scales (K-quants: blocks of 256 values whose sub-blocks have scales of their own). A row is whole
blocks. Everything here is bit-equal to the `gguf` package; the compiled kernels are tested against it.

Source: ggml's `ggml-quants.c` by way of `gguf.quants`; spec/quantization.md section 8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tgi.checkpoint.layouts import BLOCKS, row_bytes

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Blocks decoded at once: the temporaries of a decoder stay in the cache, and never double the memory of a large tensor.
_CHUNK_VALUES = 1 << 18


def dequantize(layout: str, data: Bytes, columns: int) -> Floats:
    """The values of a matrix stored in `layout`.

    Shapes: data [rows * row_bytes] uint8; returns [rows, columns] float32, a new array.
    Raises: ValueError when the layout is unknown or `data` is not whole rows.
    """
    size = row_bytes(layout, columns)
    if size == 0 or data.size % size:
        raise ValueError(f"{data.size} bytes are not whole rows of {size} bytes ({columns} columns of {layout})")
    out = np.empty((data.size // size, columns), dtype=np.float32)
    flat = out.reshape(-1)
    values, block = BLOCKS[layout]
    decode = _DECODERS[layout]
    step = max(1, _CHUNK_VALUES // values)
    for start in range(0, data.size // block, step):
        chunk = data[start * block : (start + step) * block]
        flat[start * values : start * values + chunk.size // block * values] = decode(chunk).reshape(-1)
    return out


def _fields(*fields: tuple[str, str, int]) -> np.dtype[np.void]:
    return np.dtype([(name, kind, (count,)) for name, kind, count in fields])


_Q4_0 = _fields(("d", "<f2", 1), ("qs", "u1", 16))
_Q4_1 = _fields(("d", "<f2", 1), ("m", "<f2", 1), ("qs", "u1", 16))
_Q5_0 = _fields(("d", "<f2", 1), ("qh", "u1", 4), ("qs", "u1", 16))
_Q5_1 = _fields(("d", "<f2", 1), ("m", "<f2", 1), ("qh", "u1", 4), ("qs", "u1", 16))
_Q8_0 = _fields(("d", "<f2", 1), ("qs", "i1", 32))
_Q2_K = _fields(("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2", 1), ("dmin", "<f2", 1))
_Q3_K = _fields(("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2", 1))
_Q4_K = _fields(("d", "<f2", 1), ("dmin", "<f2", 1), ("scales", "u1", 12), ("qs", "u1", 128))
_Q5_K = _fields(("d", "<f2", 1), ("dmin", "<f2", 1), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128))
_Q6_K = _fields(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2", 1))


def _float(halves: npt.NDArray[np.float16]) -> Floats:
    return halves.astype(np.float32)


def _split(packed: Bytes, bits: int, run: int) -> Bytes:
    """Unpack fields of `bits` bits: the lowest field of each `run` bytes first, then their next higher one, and so on.

    Shapes: packed [blocks, n]; returns [blocks, n * 8 / bits].
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, run)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _nibbles_and_fifth_bit(blocks: npt.NDArray[np.void]) -> Bytes:
    # qh is one little-endian 32-bit word: bit j belongs to value j.
    fifth = np.unpackbits(blocks["qh"], axis=1, bitorder="little")
    return _split(blocks["qs"], 4, 16) | (fifth << np.uint8(4))


def _f32(data: Bytes) -> Floats:
    return data.view("<f4")


def _f16(data: Bytes) -> Floats:
    return _float(data.view("<f2"))


def _bf16(data: Bytes) -> Floats:
    return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _q4_0(data: Bytes) -> Floats:
    blocks = data.view(_Q4_0)
    q = _split(blocks["qs"], 4, 16).astype(np.float32) - np.float32(8)
    return _float(blocks["d"]) * q


def _q4_1(data: Bytes) -> Floats:
    blocks = data.view(_Q4_1)
    return _float(blocks["d"]) * _split(blocks["qs"], 4, 16).astype(np.float32) + _float(blocks["m"])


def _q5_0(data: Bytes) -> Floats:
    blocks = data.view(_Q5_0)
    return _float(blocks["d"]) * (_nibbles_and_fifth_bit(blocks).astype(np.float32) - np.float32(16))


def _q5_1(data: Bytes) -> Floats:
    blocks = data.view(_Q5_1)
    return _float(blocks["d"]) * _nibbles_and_fifth_bit(blocks).astype(np.float32) + _float(blocks["m"])


def _q8_0(data: Bytes) -> Floats:
    blocks = data.view(_Q8_0)
    return _float(blocks["d"]) * blocks["qs"].astype(np.float32)


def _scaled(scales: Floats, q: npt.NDArray[np.generic]) -> Floats:
    """Multiply each sub-block by its scale: scales [blocks, n], q [blocks, values] -> [blocks, n, values / n]."""
    return scales[:, :, None] * q.reshape(*scales.shape, -1).astype(np.float32)


def _q2_k(data: Bytes) -> Floats:
    blocks = data.view(_Q2_K)
    scales = _float(blocks["d"]) * (blocks["scales"] & np.uint8(15)).astype(np.float32)
    minima = _float(blocks["dmin"]) * (blocks["scales"] >> np.uint8(4)).astype(np.float32)
    return _scaled(scales, _split(blocks["qs"], 2, 32)) - minima[:, :, None]


def _q3_k(data: Bytes) -> Floats:
    blocks = data.view(_Q3_K)
    packed = blocks["scales"]
    scales = _split(packed[:, :8], 4, 8) | (_split(packed[:, 8:], 2, 4) << np.uint8(4))
    # A set bit of hmask means that nothing is subtracted.
    high = _split(blocks["hmask"], 1, 32).astype(np.float32) * np.float32(4) - np.float32(4)
    q = _split(blocks["qs"], 2, 32).astype(np.float32) + high
    return _scaled(_float(blocks["d"]) * (scales.astype(np.float32) - np.float32(32)), q)


def _six_bit_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """The eight scales and eight minima of Q4_K and Q5_K: packed [blocks, 12] -> two of [blocks, 8]."""
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    six, four, top = np.uint8(0x3F), np.uint8(0x0F), np.uint8(0x30)
    scales = np.concatenate([low & six, (high & four) | ((low >> np.uint8(2)) & top)], axis=1)
    minima = np.concatenate([middle & six, (high >> np.uint8(4)) | ((middle >> np.uint8(2)) & top)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q4_k(data: Bytes) -> Floats:
    blocks = data.view(_Q4_K)
    scales, minima = _six_bit_scales(blocks["scales"])
    q = _split(blocks["qs"], 4, 32)
    return _scaled(_float(blocks["d"]) * scales, q) - (_float(blocks["dmin"]) * minima)[:, :, None]


def _q5_k(data: Bytes) -> Floats:
    blocks = data.view(_Q5_K)
    scales, minima = _six_bit_scales(blocks["scales"])
    q = _split(blocks["qs"], 4, 32) | (_split(blocks["qh"], 1, 32) << np.uint8(4))
    return _scaled(_float(blocks["d"]) * scales, q) - (_float(blocks["dmin"]) * minima)[:, :, None]


def _q6_k(data: Bytes) -> Floats:
    blocks = data.view(_Q6_K)
    q = _split(blocks["ql"], 4, 64) | (_split(blocks["qh"], 2, 32) << np.uint8(4))
    scales = _float(blocks["d"]) * blocks["scales"].astype(np.float32)
    return _scaled(scales, q.astype(np.float32) - np.float32(32))


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
