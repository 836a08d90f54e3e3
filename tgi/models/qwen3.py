"""Qwen3: as Llama, with every head of queries and keys normalised before it is turned, and a fixed head size.

Source: Yang et al., 2025; `Qwen3ForCausalLM` of transformers.
"""

from __future__ import annotations

from tgi.kernels import Array
from tgi.layers.attention import Attention
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.loader import Loader
from tgi.layers.mlp import GatedMLP
from tgi.layers.model import ModelConfig
from tgi.layers.norm import RMSNorm
from tgi.layers.rotary import Rotary, Rotation


class Layer:
    """Attention and MLP, each on normalised input and added to the residual."""

    def __init__(self, config: ModelConfig, load: Loader, window: int, *, last: bool) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        attn, mlp = load.at("self_attn"), load.at("mlp")
        self.attention_norm = RMSNorm(load.tensor("input_layernorm.weight", hidden), config.norm_eps)
        self.attention = Attention(
            config,
            attn.column("q_proj", "k_proj", "v_proj", inputs=hidden, outputs=(q, kv, kv), bias=config.attention_bias),
            attn.row("o_proj", inputs=q, outputs=hidden, bias=config.attention_bias),
            window=window,
            last=last,
            q_norm=RMSNorm(attn.tensor("q_norm.weight", config.head_dim), config.norm_eps),
            k_norm=RMSNorm(attn.tensor("k_norm.weight", config.head_dim), config.norm_eps),
        )
        self.mlp_norm = RMSNorm(load.tensor("post_attention_layernorm.weight", hidden), config.norm_eps)
        self.mlp = GatedMLP(
            mlp.column("gate_proj", "up_proj", inputs=hidden, outputs=(inner, inner), bias=False),
            mlp.row("down_proj", inputs=inner, outputs=hidden, bias=False),
            config.activation,
        )

    def __call__(self, x: Array, rotation: Rotation, batch: ForwardBatch, cache: KVCache) -> Array:
        """[T, hidden] -> [T, hidden], in the last layer [L, hidden]; `x` may be added to in place."""
        x = self.attention(self.attention_norm(x), rotation, batch, cache, residual=x)
        return self.mlp(self.mlp_norm(x), residual=x)


class Model:
    """A `CausalLM`."""

    def __init__(self, config: ModelConfig, load: Loader) -> None:
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        self.rotary = Rotary(config.rope, interleaved=config.rope_interleaved)
        self.embed = load.embedding("model.embed_tokens", rows=vocab, columns=hidden)
        self.layers = [
            Layer(config, load.at(f"model.layers.{index}"), window, last=index + 1 == config.num_layers)
            for index, window in enumerate(config.windows)
        ]
        self.norm = RMSNorm(load.tensor("model.norm.weight", hidden), config.norm_eps)
        self.head = load.lm_head("lm_head", embedding="model.embed_tokens", tied=config.tie_word_embeddings,
                                 rows=vocab, columns=hidden)  # fmt: skip

    def forward(self, batch: ForwardBatch, caches: list[KVCache]) -> Array:
        """See `CausalLM.forward`."""
        rotation = self.rotary(batch)
        x = self.embed(batch.input_ids)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, rotation, batch, cache)
        return self.norm(x)

    def logits(self, hidden: Array) -> Array:
        """See `CausalLM.logits`."""
        return self.head(hidden)
