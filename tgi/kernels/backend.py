"""What every backend offers: the operations of `tgi.kernels` under the same names, where their meaning is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tgi.kernels.arrays import Array
from tgi.kernels.weights import Matrix, PackedWeight

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


class Backend(Protocol):
    """One way to compute every operation; see the functions of `tgi.kernels` for shapes and units."""

    def embedding(self, ids: Array, table: Matrix) -> Array:
        """Rows of a stored matrix."""

    def take(self, x: Array, indices: Array) -> Array:
        """Rows of activations."""

    def matmul(
        self, x: Array, weight: PackedWeight, *, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """Linear map by stored weights."""

    def single_out(self, weight: PackedWeight, columns: Sequence[int]) -> None:
        """Columns of a linear map that are multiplied in float32."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """Root-mean-square normalisation of the last dimension."""

    def layer_norm(self, x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
        """Mean and variance normalisation of the last dimension."""

    def rotary(self, q: Array, k: Array, cos: Array, sin: Array, *, interleaved: bool) -> None:
        """Rotation of queries and keys by their positions."""

    def write_kv(self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array) -> None:
        """Keys and values into the paged cache."""

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        query_starts: Array,
        context_lens: Array,
        block_tables: Array,
        *,
        scale: float,
        window: int = 0,
    ) -> Array:
        """Causal attention over the paged cache."""

    def gated(self, gate_up: Array, activation: str) -> Array:
        """act(gate) * up."""

    def activate(self, x: Array, activation: str) -> Array:
        """act(x)."""

    def greedy(self, logits: Array) -> tuple[Array, Array]:
        """Most likely token of each row, and its log-probability."""
