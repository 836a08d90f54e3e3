"""What every checkpoint reader answers with, whatever the file format."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tgi.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class RawTensor:
    """One tensor's bytes as stored.

    `layout` is the storage format, by its GGUF name: "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K" ... "Q6_K" (safetensors: the first three, besides integers such as "I32"). `shape` is in torch's order
    (outermost first), in elements. `data` is a one-dimensional uint8 view of the mapped file: it keeps the map alive.
    """

    name: str
    layout: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


class Checkpoint(Protocol):
    """A model's weights and configuration."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration under config.json's keys (derived from the metadata for a GGUF file)."""

    def names(self) -> frozenset[str]:
        """All tensor names, as the transformers library writes them."""

    def tensor(self, name: str) -> RawTensor:
        """One tensor. Raises: ModelError naming what is missing and the nearest names that exist."""


def missing_tensor(where: object, name: str, names: Iterable[str]) -> ModelError:
    """The error for a tensor that a model needs and `where` does not hold."""
    near = difflib.get_close_matches(name, sorted(names), n=3)
    hint = f"nearest names: {', '.join(near)}" if near else "the file may belong to another kind of model"
    return ModelError(f"`{where}` has no tensor `{name}`", hint=hint, exit_code=16)
