"""A checkpoint in memory, for tests of the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgi.checkpoint import RawTensor
from tgi.errors import ModelError

_LAYOUTS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32"}


@dataclass
class MemoryCheckpoint:
    """Tensors by name, as `tgi.checkpoint.Checkpoint` offers them; an entry may be a `RawTensor` already."""

    tensors: dict[str, Tensor | RawTensor]
    config: dict[str, Any] = field(default_factory=dict)

    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self.tensors)

    def tensor(self, name: str) -> RawTensor:
        """One tensor's bytes."""
        if name not in self.tensors:
            raise ModelError(f"no tensor `{name}`", exit_code=16)
        found = self.tensors[name]
        if isinstance(found, RawTensor):
            return found
        data: np.ndarray = found.contiguous().view(torch.uint8).reshape(-1).numpy()
        return RawTensor(name, _LAYOUTS[found.dtype], tuple(found.shape), data)
