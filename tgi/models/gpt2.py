"""GPT-2: layer norms, learnt positions, all projections with bias, plain MLP.

Source: Radford et al., 2019; `GPT2LMHeadModel` of transformers, whose `Conv1D` stores weights [inputs, outputs].
"""

from __future__ import annotations

from tgi.kernels import Array
from tgi.layers.attention import Attention
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.loader import Loader
from tgi.layers.mlp import MLP
from tgi.layers.model import ModelConfig
from tgi.layers.norm import LayerNorm


class Layer:
    """Attention and MLP, each on normalised input and added to the residual."""

    def __init__(self, config: ModelConfig, load: Loader, index: int) -> None:
        hidden, inner, transposed = config.hidden_size, config.intermediate_size, config.linears_transposed
        qkv = 3 * config.num_heads * config.head_dim
        attn, mlp = load.at("attn"), load.at("mlp")
        self.attention_norm = _norm(config, load.at("ln_1"))
        self.attention = Attention(
            config,
            attn.column(
                "c_attn",
                inputs=hidden,
                outputs=(qkv,),
                bias=True,
                transposed=transposed,
            ),
            attn.row("c_proj", inputs=hidden, outputs=hidden, bias=True, transposed=transposed),
            scale=_scale(config, index),
            last=index + 1 == config.num_layers,
        )
        self.mlp_norm = _norm(config, load.at("ln_2"))
        self.mlp = MLP(
            mlp.column("c_fc", inputs=hidden, outputs=(inner,), bias=True, transposed=transposed),
            mlp.row("c_proj", inputs=inner, outputs=hidden, bias=True, transposed=transposed),
            config.activation,
        )

    def __call__(self, x: Array, batch: ForwardBatch, cache: KVCache) -> Array:
        """[T, hidden] -> [T, hidden], in the last layer [L, hidden]; `x` may be added to in place."""
        x = self.attention(self.attention_norm(x), None, batch, cache, residual=x)
        return self.mlp(self.mlp_norm(x), residual=x)


class Model:
    """A `CausalLM`."""

    def __init__(self, config: ModelConfig, load: Loader) -> None:
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        self.embed = load.embedding("transformer.wte", rows=vocab, columns=hidden)
        self.positions = load.embedding("transformer.wpe", rows=config.max_positions, columns=hidden)
        self.layers = [Layer(config, load.at(f"transformer.h.{index}"), index) for index in range(config.num_layers)]
        self.norm = _norm(config, load.at("transformer.ln_f"))
        self.head = load.lm_head("lm_head", embedding="transformer.wte", tied=config.tie_word_embeddings,
                                 rows=vocab, columns=hidden)  # fmt: skip

    def forward(self, batch: ForwardBatch, caches: list[KVCache]) -> Array:
        """See `CausalLM.forward`."""
        x = self.embed(batch.input_ids) + self.positions(batch.positions)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, batch, cache)
        return self.norm(x)

    def logits(self, hidden: Array) -> Array:
        """See `CausalLM.logits`."""
        return self.head(hidden)


def _norm(config: ModelConfig, load: Loader) -> LayerNorm:
    weight, bias = load.tensor("weight", config.hidden_size), load.tensor("bias", config.hidden_size)
    return LayerNorm(weight, bias, config.norm_eps)


def _scale(config: ModelConfig, index: int) -> float:
    """What multiplies q.k in layer `index`."""
    scale = config.head_dim**-0.5 if config.scale_attn_weights else 1.0
    return scale / (index + 1) if config.scale_attn_by_inverse_layer_idx else scale
