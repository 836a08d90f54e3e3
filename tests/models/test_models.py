"""A configuration leads to its model, or to an error that names what is supported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from tests.step_plans import Driver
from tests.tiny_models import tiny_model
from tgi import models
from tgi.checkpoint import Checkpoint, RawTensor, open_checkpoint
from tgi.config import Batching, Config
from tgi.errors import ModelError
from tgi.layers.loader import Loader
from tgi.runner.runner import ModelRunner


class Changed:
    """A checkpoint with another configuration, and some tensors replaced or gone (None)."""

    def __init__(self, inner: Checkpoint, tensors: dict[str, RawTensor | None] | None = None, **config: Any) -> None:
        self._inner = inner
        self._tensors = tensors or {}
        self.config = inner.config | config

    def names(self) -> frozenset[str]:
        return self._inner.names() - {name for name, tensor in self._tensors.items() if tensor is None}

    def tensor(self, name: str) -> RawTensor:
        return self._tensors.get(name) or self._inner.tensor(name)


@pytest.fixture
def llama(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny_model(tmp_path, "llama"))


def load(checkpoint: Checkpoint) -> object:
    return models.load(checkpoint.config, Loader(checkpoint))


@pytest.mark.parametrize("model_type", ["mixtral", "bert", None])
def test_an_unknown_model_is_answered_with_the_known_ones(model_type: str | None, llama: Checkpoint) -> None:
    with pytest.raises(ModelError, match=f"`{model_type}` is not supported") as caught:
        load(Changed(llama, model_type=model_type))

    assert caught.value.exit_code == 18
    assert all(name in str(caught.value.hint) for name in ("gpt2", "llama", "mistral", "qwen2", "qwen3"))


def test_quantized_safetensors_are_refused_by_their_method(llama: Checkpoint) -> None:
    with pytest.raises(ModelError, match="`gptq`") as caught:
        load(Changed(llama, quantization_config={"quant_method": "gptq"}))

    assert caught.value.exit_code == 18


def test_mistral_is_a_llama() -> None:
    assert models.ALIASES == {"mistral": "llama"}
    assert set(models.SUPPORTED) == {"gpt2", "llama", "mistral", "qwen2", "qwen3"}


def test_a_configuration_of_another_model_is_refused(llama: Checkpoint) -> None:
    with pytest.raises(ModelError, match=r"shape \[96, 64\]; config.json asks for \[97, 64\]"):
        load(Changed(llama, intermediate_size=97))


def test_a_missing_weight_is_named(llama: Checkpoint) -> None:
    with pytest.raises(ModelError, match=r"model\.layers\.3\.input_layernorm\.weight"):
        load(Changed(llama, num_hidden_layers=4))


def greedy_text(checkpoint: Checkpoint) -> list[int]:
    runner = ModelRunner.load(checkpoint, config=Config(batching=Batching(max_batch_total_tokens=256)))
    driver = Driver(runner)
    sequence = driver.add(range(3, 43), longest=60)
    driver.run([sequence], 16)
    return sequence.output


def test_rows_stored_for_neighbouring_pairs_give_the_same_text(llama: Checkpoint) -> None:
    """A GGUF llama stores q and k so; config.json's `rope_interleaved` tells the model."""

    def neighbours(name: str, heads: int) -> RawTensor:
        raw = llama.tensor(name)
        rows, columns = raw.shape
        weight = torch.from_numpy(raw.data.copy()).view(torch.float32).view(heads, 2, rows // heads // 2, columns)
        data = weight.transpose(1, 2).contiguous().view(torch.uint8).reshape(-1).numpy()
        return RawTensor(name, raw.layout, raw.shape, data)

    stored = {
        f"model.layers.{layer}.self_attn.{name}.weight": neighbours(
            f"model.layers.{layer}.self_attn.{name}.weight", heads
        )
        for layer in range(3)
        for name, heads in (("q_proj", 4), ("k_proj", 2))
    }

    assert greedy_text(Changed(llama, stored, rope_interleaved=True)) == greedy_text(llama)
    assert greedy_text(Changed(llama, stored)) != greedy_text(llama)


def test_gpt2_stored_as_outputs_by_inputs_gives_the_same_text(tmp_path: Path) -> None:
    """A GGUF gpt2 stores its linears so; config.json's `linear_layout` tells the model."""
    checkpoint = open_checkpoint(tiny_model(tmp_path, "gpt2"))
    stored = {}
    for name, weight in GPT2LMHeadModel.from_pretrained(tmp_path).named_parameters():
        if weight.ndim == 2 and ".h." in name:
            turned = weight.detach().T.contiguous()
            data = turned.view(torch.uint8).reshape(-1).numpy()
            stored[name] = RawTensor(name, "F32", tuple(turned.shape), data)
    assert len(stored) == 3 * 4

    assert greedy_text(Changed(checkpoint, stored, linear_layout="out_in")) == greedy_text(checkpoint)


def test_names_without_the_outer_prefix_are_found(llama: Checkpoint) -> None:
    class Bare:
        config = llama.config

        def names(self) -> frozenset[str]:
            return frozenset(name.removeprefix("model.") for name in llama.names())

        def tensor(self, name: str) -> RawTensor:
            return llama.tensor(name if name in llama.names() else f"model.{name}")

    assert greedy_text(Bare()) == greedy_text(llama)  # type: ignore[arg-type]
