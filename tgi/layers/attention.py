"""Self-attention of a decoder layer over the paged KV cache."""

from __future__ import annotations

from tgi import kernels
from tgi.kernels import Array
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.linear import ColumnLinear, RowLinear
from tgi.layers.model import ModelConfig
from tgi.layers.norm import RMSNorm
from tgi.layers.rotary import Rotation


class Attention:
    """Project to heads, turn by position, remember keys and values, attend, project back.

    `qkv` yields q, k and v side by side. `q_norm` and `k_norm` normalise each head before it is turned.
    In the `last` layer only tokens that need logits go on: of the others, nobody asks for more than keys and values.
    Units: `scale` multiplies q.k before softmax; `window` counts tokens a query sees, itself included, 0 is unlimited.
    """

    def __init__(
        self,
        config: ModelConfig,
        qkv: ColumnLinear,
        out: RowLinear,
        *,
        scale: float | None = None,
        window: int = 0,
        q_norm: RMSNorm | None = None,
        k_norm: RMSNorm | None = None,
        last: bool = False,
    ) -> None:
        self.qkv = qkv
        self.out = out
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5 if scale is None else scale
        self.window = window
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.last = last

    def __call__(
        self, x: Array, rotation: Rotation | None, batch: ForwardBatch, cache: KVCache, residual: Array
    ) -> Array:
        """[T, hidden], [T, hidden] -> [T, hidden], in the last layer [L, hidden]; may add to `residual` in place."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x).reshape(len(x), heads + 2 * kv_heads, self.head_dim)
        q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        if rotation is not None:
            kernels.rotary(q, k, rotation.cos, rotation.sin, interleaved=rotation.interleaved)
        kernels.write_kv(k, v, cache.keys, cache.values, batch.slot_mapping)
        wanted = batch.logits_indices if self.last else None
        if wanted is not None and not len(wanted):
            return residual[:0]
        mixed = kernels.attention(
            q,
            cache.keys,
            cache.values,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            scale=self.scale,
            window=self.window,
        )
        if wanted is not None:
            mixed, residual = kernels.take(mixed, wanted), kernels.take(residual, wanted)
        return self.out(mixed, residual)
