"""What every backend offers: the operations of `tgi.kernels` under the same names, where their meaning is written."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from tgi.kernels.weights import Matrix, PackedWeight

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


class Backend(Protocol):
    """One way to compute every operation; see the functions of `tgi.kernels` for shapes and units."""

    def embedding(self, ids: Tensor, table: Matrix) -> Tensor:
        """Rows of a stored matrix."""

    def matmul(
        self, x: Tensor, weight: PackedWeight, *, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Linear map by stored weights."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Root-mean-square normalisation of the last dimension."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """Mean and variance normalisation of the last dimension."""

    def rotary(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> None:
        """Rotation of queries and keys by their positions."""

    def write_kv(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
        """Keys and values into the paged cache."""

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        block_tables: Tensor,
        *,
        scale: float,
        window: int = 0,
    ) -> Tensor:
        """Causal attention over the paged cache."""

    def gated(self, gate_up: Tensor, activation: str) -> Tensor:
        """act(gate) * up."""

    def activate(self, x: Tensor, activation: str) -> Tensor:
        """act(x)."""

    def greedy(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Most likely token of each row, and its log-probability."""
