"""Small random models in real folders: weights by transformers' own classes, a byte tokenizer, a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS_ID = 2
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": EOS_ID,
    # Wide enough that attention attends and the most likely token is a clear choice.
    "initializer_range": 0.25,
}
_GPT2 = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": 0,
    "eos_token_id": EOS_ID,
    "initializer_range": 0.25,
}
_CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, _SHAPE),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, _SHAPE | {"sliding_window": 48}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, _SHAPE),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, _SHAPE | {"head_dim": 16}),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel, _GPT2),
}


def tiny_model(folder: Path, model_type: str = "llama", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Save a random model of `model_type` with its tokenizer into `folder`; `changes` go into its configuration.

    The same arguments give the same weights. Norms, biases and all: nothing is left at the ones and zeros of a fresh
    model, which would hide a weight that is not applied.
    """
    config_class, model_class, shape = _CLASSES[model_type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config_class(**shape | changes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def tiny_tokenizer(folder: Path) -> Path:
    """Save a tokenizer of three special tokens and the 256 bytes into `folder`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def reference_model(folder: Path) -> Any:
    """The same model by transformers, in float32 with its plainest attention."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
