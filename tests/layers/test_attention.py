"""Attention over the paged cache is attention over the whole sequence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.layers.checkpoints import MemoryCheckpoint
from tgi.layers.attention import Attention
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.loader import Loader
from tgi.layers.model import ModelConfig
from tgi.layers.norm import RMSNorm

TOKENS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, BLOCK = 23, 48, 6, 2, 8, 4
CONFIG = ModelConfig.from_json({
    "model_type": "llama", "vocab_size": 9, "hidden_size": HIDDEN, "intermediate_size": 9, "num_hidden_layers": 1,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
})  # fmt: skip
SIZES = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"q": (SIZES[0], HIDDEN), "k": (SIZES[1], HIDDEN), "v": (SIZES[2], HIDDEN), "o": (HIDDEN, SIZES[0])}
    return {f"{name}.weight": torch.randn(shape) * 0.15 for name, shape in shapes.items()}


def expected(x: Tensor, named: dict[str, Tensor], scale: float, window: int, norm: Tensor | None) -> Tensor:
    q, k, v = ((x @ named[f"{name}.weight"].T).view(TOKENS, -1, HEAD_DIM).transpose(0, 1) for name in "qkv")
    if norm is not None:
        q, k = (F.rms_norm(part, (HEAD_DIM,), norm, 1e-6) for part in (q, k))
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=0) for part in (k, v))
    distance = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    visible = (distance >= 0) & ((distance < window) if window else True)
    weighted = F.softmax((q @ k.transpose(1, 2) * scale).masked_fill(~visible, -torch.inf), dim=-1) @ v
    return weighted.transpose(0, 1).reshape(TOKENS, -1) @ named["o.weight"].T


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("scale", [None, 0.9])
def test_a_paged_chunked_sequence_attends_as_a_whole_one(window: int, normed: bool, scale: float | None) -> None:
    named = weights()
    load = Loader(MemoryCheckpoint(dict(named)))
    norm = torch.rand(HEAD_DIM) + 0.5 if normed else None
    attention = Attention(
        CONFIG,
        load.column("q", "k", "v", inputs=HIDDEN, outputs=SIZES),
        load.row("o", inputs=SIZES[0], outputs=HIDDEN),
        scale=scale,
        window=window,
        q_norm=None if norm is None else RMSNorm(norm, 1e-6),
        k_norm=None if norm is None else RMSNorm(norm, 1e-6),
    )
    x, residual = torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
    cache = KVCache(*(torch.full((8, BLOCK, KV_HEADS, HEAD_DIM), torch.nan) for _ in range(2)))
    blocks = torch.tensor([[5, 2, 7, 1, 3, 6]], dtype=torch.int32)
    result = []
    for start, stop in ((0, 9), (9, 10), (10, TOKENS)):
        positions = torch.arange(start, stop)
        batch = ForwardBatch(
            input_ids=positions.int(),
            positions=positions.int(),
            slot_mapping=blocks[0][positions // BLOCK].long() * BLOCK + positions % BLOCK,
            query_starts=torch.tensor([0, stop - start], dtype=torch.int32),
            context_lens=torch.tensor([stop], dtype=torch.int32),
            block_tables=blocks,
            rope_variants=torch.zeros(1, dtype=torch.int32),
            logits_indices=torch.zeros(0, dtype=torch.int32),
        )
        result.append(attention(x[start:stop], None, batch, cache, residual[start:stop].clone()))

    wanted = residual + expected(x, named, HEAD_DIM**-0.5 if scale is None else scale, window, norm)
    torch.testing.assert_close(torch.cat(result), wanted, rtol=1e-5, atol=1e-5)
