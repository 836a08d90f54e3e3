"""Answers a model file that asks for weights by their checkpoint names: finds, checks, and hands them on as stored.

Weights stay where the checkpoint maps them. Three things are copied: vectors (norms and biases, which kernels want in
float32), weights that `--dtype` asks to hold in another float type, and gpt2's, which are stored transposed. All are
multiplied exactly, in float32. With `--quantize int8` linear maps multiply in integers: float weights are converted,
and read from the user's cache the next time; quantized ones stay what they are.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tgi.checkpoint import Checkpoint, RawTensor
from tgi.checkpoint.blocks import dequantize
from tgi.checkpoint.layouts import BLOCKS
from tgi.checkpoint.mapping import forget
from tgi.errors import ModelError
from tgi.kernels import Array, Matrix, PackedWeight
from tgi.kernels.arrays import FLOATS, encode
from tgi.kernels.weights import INTEGER_LAYOUTS
from tgi.layers.embedding import Embedding, LMHead
from tgi.layers.linear import ColumnLinear, RowLinear
from tgi.quantization import int8

log = logging.getLogger(__name__)

# Checkpoints of one architecture are saved with and without these, depending on the class that saved them.
_PREFIX = re.compile(r"^(model\.language_model\.|language_model\.model\.|language_model\.|transformer\.|model\.)")
# Buffers that older versions of transformers saved; they are computed, not learnt.
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.bias|\.attn\.masked_bias)$")


@dataclass(slots=True)
class _Shelf:
    """What all loaders of one checkpoint share."""

    checkpoint: Checkpoint
    dtype: str | None  # layout that float weights are held in: "F32", "F16", "BF16"; None: as stored
    actual: dict[str, str]  # name without its prefix -> name in the checkpoint
    convert: int8.Convert | None  # linear maps multiply in integers, float ones after this conversion
    # By actual name, and whether it is a table of vectors, which is never converted: a tied one is held once if it can.
    matrices: dict[tuple[str, bool], Matrix] = field(default_factory=dict)
    float_bytes: Counter[str] = field(default_factory=Counter)  # by layout, before any conversion to integers
    read: set[str] = field(default_factory=set)
    vector_bytes: int = 0


class Loader:
    """A place in a checkpoint. Every name is relative to it, and is found with or without the usual outer prefixes."""

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: str | None = None, convert: int8.Convert | None = None
    ) -> None:
        """`dtype` holds float weights in that type ("bfloat16"); with `convert`, linear maps multiply in integers."""
        names = checkpoint.names()
        layout = next((name for name, kind in FLOATS.items() if kind == dtype), None)
        self._shelf = _Shelf(checkpoint, layout, {_bare(name): name for name in names}, convert)
        self._prefix = ""

    def at(self, prefix: str) -> Loader:
        """The same checkpoint, seen from `prefix` below this place."""
        inner = object.__new__(Loader)
        inner._shelf = self._shelf
        inner._prefix = self._name(prefix)
        return inner

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds tensor `name`."""
        return _bare(self._name(name)) in self._shelf.actual

    def column(
        self,
        *names: str,
        inputs: int,
        outputs: Sequence[int],
        bias: bool | None = None,
        transposed: bool = False,
    ) -> ColumnLinear:
        """One linear map of several matrices side by side, `outputs[i]` rows from `names[i]`.

        `bias` None means: as the checkpoint has it, a missing one being zero beside others. `transposed`: the weights
        are stored [inputs, outputs].
        Raises: ModelError (16) for a missing tensor or a shape that config.json contradicts, (18) for a storage layout
        that no kernel multiplies.
        """
        parts = [self._matrix(f"{name}.weight", rows, inputs, transposed)
                 for name, rows in zip(names, outputs, strict=True)]  # fmt: skip
        return ColumnLinear(PackedWeight(tuple(parts)), self._biases(names, outputs, bias))

    def row(
        self, name: str, *, inputs: int, outputs: int, bias: bool | None = None, transposed: bool = False
    ) -> RowLinear:
        """One linear map that is added to a residual; see `column`."""
        matrix = self._matrix(f"{name}.weight", outputs, inputs, transposed)
        return RowLinear(PackedWeight((matrix,)), self._biases((name,), (outputs,), bias))

    def tensor(self, name: str, size: int) -> Array:
        """A vector as [size] float32, copied."""
        raw = self._raw(name)
        if raw.shape != (size,):
            raise self._wrong_shape(raw, (size,))
        vector = self._values(raw).reshape(size)
        self._shelf.vector_bytes += vector.nbytes
        return vector

    def embedding(self, name: str, *, rows: int, columns: int) -> Embedding:
        """The table of vectors of `rows` ids."""
        return Embedding(self._matrix(f"{name}.weight", rows, columns, table=True))

    def lm_head(self, name: str, *, embedding: str, tied: bool, rows: int, columns: int) -> LMHead:
        """The map to logits: a matrix of its own, or the embedding's table.

        Tied when `tied` is set, unless the checkpoint holds two different tables; and always when it holds no head.
        """
        head, table = f"{name}.weight", f"{embedding}.weight"
        if not self.has(head) or (tied and self._same(head, table)):
            head = table
        return LMHead(self._matrix(head, rows, columns))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights asked for so far, mapped or copied."""
        return sum(matrix.data.nbytes for matrix in self._shelf.matrices.values()) + self._shelf.vector_bytes

    @property
    def layout(self) -> str:
        """The storage layout that most of the weights' bytes are in."""
        sizes: Counter[str] = Counter()
        for matrix in self._shelf.matrices.values():
            sizes[matrix.layout] += matrix.data.nbytes
        return sizes.most_common(1)[0][0] if sizes else "F32"

    @property
    def converted(self) -> bool:
        """Whether a weight asked for so far was converted to integers."""
        return any(convert for _, convert in self._shelf.matrices)

    @property
    def integer(self) -> bool:
        """Whether a weight asked for so far is multiplied in integers."""
        return any(matrix.integer and matrix.layout in INTEGER_LAYOUTS for matrix in self._shelf.matrices.values())

    @property
    def float_layout(self) -> str:
        """The float type that most of the weights' bytes were in before conversion to integers; without, `layout`."""
        sizes = self._shelf.float_bytes
        return sizes.most_common(1)[0][0] if self._shelf.convert is not None and sizes else self.layout

    def unread(self) -> list[str]:
        """Tensors of the checkpoint that the model did not ask for, known buffers left out, sorted."""
        left = self._shelf.checkpoint.names() - self._shelf.read
        return sorted(name for name in left if not _BUFFERS.search(name))

    def report_unread(self) -> None:
        """Warn of tensors the model did not ask for: the checkpoint may be of a variant that tgi does not know."""
        left = self.unread()
        if left:
            log.warning("%d tensors of the checkpoint are not used, such as `%s`", len(left), left[0])

    def _name(self, name: str) -> str:
        return f"{self._prefix}.{name}" if self._prefix else name

    def _raw(self, name: str) -> RawTensor:
        full = self._name(name)
        # The checkpoint itself reports a name that does not exist, with its neighbours.
        actual = self._shelf.actual.get(_bare(full), full)
        raw = self._shelf.checkpoint.tensor(actual)
        self._shelf.read.add(actual)
        if raw.layout not in BLOCKS:
            raise ModelError(f"tensor `{actual}` is stored as {raw.layout}, which is not supported",
                             hint=f"supported: {', '.join(BLOCKS)}", exit_code=18)  # fmt: skip
        return raw

    def _matrix(self, name: str, rows: int, columns: int, transposed: bool = False, *, table: bool = False) -> Matrix:
        raw = self._raw(name)
        wanted = (columns, rows) if transposed else (rows, columns)
        if raw.shape != wanted:
            raise self._wrong_shape(raw, wanted)
        convert = not table and self._shelf.convert is not None and raw.layout in FLOATS and columns % int8.GROUP == 0
        held = self._shelf.matrices.get((raw.name, convert))
        if held is None:
            held = self._hold(raw, rows, columns, transposed)
            if convert:
                held = self._convert(held, mapped=held.data is raw.data)
            self._shelf.matrices[raw.name, convert] = held
        return held

    def _convert(self, matrix: Matrix, *, mapped: bool) -> Matrix:
        assert self._shelf.convert is not None
        data = self._shelf.convert(matrix.layout, matrix.data, matrix.columns)
        forget(matrix.data)
        return replace(matrix, layout=int8.LAYOUT, data=data, source=matrix if mapped else None)

    def _hold(self, raw: RawTensor, rows: int, columns: int, transposed: bool) -> Matrix:
        layout = raw.layout
        if layout in FLOATS:
            layout = self._shelf.dtype or layout
        elif transposed:
            raise ModelError(f"tensor `{raw.name}` is transposed and stored as {layout}, which is not supported",
                             exit_code=18)  # fmt: skip
        data = raw.data
        if transposed or layout != raw.layout:
            values = dequantize(raw.layout, raw.data, raw.shape[-1])
            held = np.ascontiguousarray(encode(values.T if transposed else values, layout))
            data = held.reshape(-1).view(np.uint8)
            forget(raw.data)
        if layout in FLOATS:
            self._shelf.float_bytes[layout] += data.nbytes
        return Matrix(layout, rows, columns, data, integer=self._shelf.convert is not None)

    def _biases(self, names: Sequence[str], sizes: Sequence[int], bias: bool | None) -> Array | None:
        present = [self.has(f"{name}.bias") for name in names]
        if bias is False or (bias is None and not any(present)):
            return None
        parts = [
            self.tensor(f"{name}.bias", size) if found or bias else np.zeros(size, np.float32)
            for name, size, found in zip(names, sizes, present, strict=True)
        ]
        return np.concatenate(parts)

    def _same(self, first: str, second: str) -> bool:
        one, two = self._raw(first), self._raw(second)
        same = one.layout == two.layout and np.array_equal(one.data, two.data)
        forget(one.data)
        forget(two.data)
        return same

    @staticmethod
    def _values(raw: RawTensor) -> npt.NDArray[np.float32]:
        return dequantize(raw.layout, raw.data, raw.shape[-1])

    @staticmethod
    def _wrong_shape(raw: RawTensor, wanted: tuple[int, ...]) -> ModelError:
        return ModelError(f"tensor `{raw.name}` has shape {list(raw.shape)}; config.json asks for {list(wanted)}",
                          hint="config.json and the weights belong to different models", exit_code=16)  # fmt: skip


def _bare(name: str) -> str:
    return _PREFIX.sub("", name)
