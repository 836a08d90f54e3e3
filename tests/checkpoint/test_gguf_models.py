"""GGUF under transformers' names: compared with transformers' own models and the gguf package's tensor tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers
from real_model import default_gguf

from tgi.checkpoint.gguf import GgufFile
from tgi.checkpoint.gguf_models import GgufCheckpoint
from tgi.errors import ModelError

LAYERS, HIDDEN, HEADS, VOCABULARY = 2, 32, 4, 40
SHAPE = {
    "context_length": 128, "embedding_length": HIDDEN, "block_count": LAYERS, "feed_forward_length": 48,
    "attention.head_count": HEADS,
}  # fmt: skip
LLAMA_LIKE = SHAPE | {"attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 5e5}
METADATA: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE | {"rope.dimension_count": 8},
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE | {"attention.key_length": 16, "attention.value_length": 16},
    "gpt2": SHAPE | {"attention.layer_norm_epsilon": 1e-5},
}
TINY = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "vocab_size": VOCABULARY,
        "intermediate_size": 48, "num_key_value_heads": 2}  # fmt: skip


def reference_model(architecture: str) -> Any:
    """A tiny random model of transformers, of the shape that `METADATA` states."""
    if architecture == "gpt2":
        config: Any = transformers.GPT2Config(n_layer=LAYERS, n_embd=HIDDEN, n_head=HEADS, n_inner=48, n_positions=128,
                                              vocab_size=VOCABULARY)  # fmt: skip
    elif architecture == "qwen3":
        config = transformers.Qwen3Config(**TINY, head_dim=16)
    else:
        config = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[architecture](**TINY)
    return transformers.AutoModelForCausalLM.from_config(config)


def write_model(path: Path, architecture: str, extra: dict[str, Any] | None = None,
                tensors: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A GGUF file as llama.cpp's conversion writes it: its names, and gpt2's matrices turned."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in (METADATA[architecture] | (extra or {})).items():
        full = name if name.startswith(("tokenizer", "split")) else f"{architecture}.{name}"
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](full, value)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, LAYERS)
    model = reference_model(architecture)
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            values = np.ascontiguousarray(values.T)
        if not (model.config.tie_word_embeddings and name == "lm_head.weight"):
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def checkpoint(path: Path) -> GgufCheckpoint:
    return GgufCheckpoint(GgufFile(path))


@pytest.mark.parametrize("architecture", METADATA)
def test_tensors_have_transformers_names_and_shapes(architecture: str, tmp_path: Path) -> None:
    found = checkpoint(write_model(tmp_path / "model.gguf", architecture))
    model = reference_model(architecture)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert found.names() == expected.keys()
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight") if architecture == "gpt2" else ()
    for name, shape in expected.items():
        assert found.tensor(name).shape == (tuple(reversed(shape)) if name.endswith(turned) and turned else shape)
        assert found.tensor(name).name == name


@pytest.mark.parametrize("architecture", METADATA)
def test_configuration_has_the_keys_and_values_of_config_json(architecture: str, tmp_path: Path) -> None:
    extra = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    config = checkpoint(write_model(tmp_path / "model.gguf", architecture, extra)).config
    reference = reference_model(architecture).config
    assert config["model_type"] == architecture
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    keys = ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "num_key_value_heads"]
    if architecture == "gpt2":
        keys = ["n_layer", "n_embd", "n_head", "n_inner", "n_positions", "activation_function", "layer_norm_epsilon"]
    for key in [*keys, "vocab_size", "tie_word_embeddings"]:
        expected = getattr(reference, key)
        assert config[key] == (pytest.approx(expected) if isinstance(expected, float) else expected), key
    if architecture != "gpt2":
        assert config["rms_norm_eps"] == pytest.approx(1e-6)
        assert config["head_dim"] == (16 if architecture == "qwen3" else 8)
        assert config["max_position_embeddings"] == 128
        assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    assert config.get("rope_interleaved", False) == (architecture == "llama")
    assert config.get("linear_layout") == ("out_in" if architecture == "gpt2" else None)


def test_the_default_model_reads_as_its_config_json_says() -> None:
    found = checkpoint(default_gguf())
    expected = {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "max_position_embeddings": 8192, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
        "rope_interleaved": True, "attention_bias": False,
    }  # fmt: skip
    assert {key: found.config[key] for key in expected} == expected
    assert len(found.names()) == 272
    assert found.tensor("model.layers.0.mlp.down_proj.weight").shape == (576, 1536)


def test_linear_and_yarn_scaling_are_read(tmp_path: Path) -> None:
    extra: dict[str, Any] = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    linear = checkpoint(write_model(tmp_path / "linear.gguf", "llama", extra)).config["rope_parameters"]
    assert linear == {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}
    extra |= {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 32}
    yarn = checkpoint(write_model(tmp_path / "yarn.gguf", "qwen2", extra)).config["rope_parameters"]
    expected = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 32}
    assert yarn == expected


def test_stored_factors_divide_frequencies_as_llama3_scaling_does(tmp_path: Path) -> None:
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
    rope = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    plain = rope(transformers.LlamaConfig(**TINY, rope_parameters={"rope_type": "default", "rope_theta": 5e5}))
    scaled = rope(transformers.LlamaConfig(**TINY, rope_parameters=llama3))
    factors = (plain.inv_freq / scaled.inv_freq).numpy().astype(np.float32)  # as the conversion script stores them
    assert factors.max() > 1
    found = checkpoint(write_model(tmp_path / "model.gguf", "llama", tensors={"rope_freqs.weight": factors}))
    settings = found.config["rope_parameters"]
    read = rope(transformers.LlamaConfig(**TINY, max_position_embeddings=128, rope_parameters=settings))
    np.testing.assert_allclose(read.inv_freq.numpy(), scaled.inv_freq.numpy(), rtol=1e-6)
    assert read.attention_scaling == 1.0
    assert found.tensor("rope_freqs.weight").shape == (4,)


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"expert_count": 8}, "mixture of experts"),
        ({"rope.scaling.type": "longrope"}, "rotary embedding by `longrope`"),
        ({"attention.head_count_kv": [2, 1]}, "layers that differ"),
        ({"attention.value_length": 4}, "another length than keys"),
        ({"split.count": 3}, "one part of a model in several files"),
    ],
)
def test_what_the_models_cannot_do_is_refused(extra: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=fault) as refusal:
        checkpoint(write_model(tmp_path / "model.gguf", "llama", extra))
    assert refusal.value.exit_code == 18


def test_an_unknown_architecture_is_refused_naming_what_is_supported(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture `mamba`") as refusal:
        checkpoint(tmp_path / "model.gguf")
    assert (refusal.value.exit_code, refusal.value.hint) == (18, "supported: llama, qwen2, qwen3, gpt2")


def test_numbers_that_make_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`llama.attention.head_count` is 0") as refusal:
        checkpoint(write_model(tmp_path / "model.gguf", "llama", {"attention.head_count": 0}))
    assert refusal.value.exit_code == 16
