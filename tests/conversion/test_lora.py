"""A merged model is the base plus the adapter, by PEFT's definition."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tgi.checkpoint import open_checkpoint
from tgi.conversion.lora import merge
from tgi.errors import ModelError

RANK, ALPHA = 2, 8
QUERY = "model.layers.0.self_attn.q_proj"
VALUE = "model.layers.0.self_attn.v_proj"


def make(folder: Path, adapter: dict[str, torch.Tensor], **config: Any) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A base model and an adapter; returns their folders and the base's tensors."""
    base, other = folder / "base", folder / "adapter"
    base.mkdir()
    other.mkdir()
    tensors = {f"{name}.weight": torch.randn(6, 4) for name in (QUERY, VALUE)} | {"lm_head.weight": torch.randn(5, 4)}
    save_file({name: value.to(torch.bfloat16) for name, value in tensors.items()}, base / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (base / name).write_text(json.dumps({"of": "base"}))
    (other / "tokenizer.json").write_text(json.dumps({"of": "adapter"}))
    save_file(
        {f"base_model.model.{name}": value for name, value in adapter.items()}, other / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "base_model_name_or_path": "a/base", "r": RANK, "lora_alpha": ALPHA} | config
    (other / "adapter_config.json").write_text(json.dumps(settings))
    return base, other, {name: value.to(torch.bfloat16) for name, value in tensors.items()}


def pair(module: str, rows: int = 6, columns: int = 4, rank: int = RANK) -> dict[str, torch.Tensor]:
    return {f"{module}.lora_A.weight": torch.randn(rank, columns), f"{module}.lora_B.weight": torch.randn(rows, rank)}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, ALPHA / RANK),
        ({"use_rslora": True}, ALPHA / math.sqrt(RANK)),
        ({"alpha_pattern": {"q_proj": 3}}, 3 / RANK),
        ({"alpha_pattern": {"k_proj": 3}}, ALPHA / RANK),
    ],
)
def test_only_what_the_adapter_names_changes_and_by_so_much(
    config: dict[str, Any], scale: float, tmp_path: Path
) -> None:
    change = pair(QUERY)
    base, adapter, before = make(tmp_path, change, **config)
    merge(str(base), str(adapter), str(adapter))
    after = load_file(adapter / "model.safetensors")
    delta = scale * (change[f"{QUERY}.lora_B.weight"] @ change[f"{QUERY}.lora_A.weight"])
    expected = (before[f"{QUERY}.weight"].float() + delta).to(torch.bfloat16)
    assert torch.equal(after[f"{QUERY}.weight"], expected)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before if name != f"{QUERY}.weight")


def test_the_result_is_a_model_like_any_other(tmp_path: Path) -> None:
    base, adapter, before = make(tmp_path, pair(QUERY))
    written = merge(str(base), str(adapter), str(adapter))
    assert "config.json" in written
    assert open_checkpoint(adapter).names() == before.keys()
    assert json.loads((adapter / "config.json").read_text()) == {"of": "base"}
    assert json.loads((adapter / "tokenizer.json").read_text()) == {"of": "adapter"}


def test_transposed_layers_are_changed_as_they_lie(tmp_path: Path) -> None:
    change = pair(QUERY, rows=4, columns=6)
    base, adapter, before = make(tmp_path, change, fan_in_fan_out=True)
    merge(str(base), str(adapter), str(tmp_path / "merged"))
    delta = ALPHA / RANK * (change[f"{QUERY}.lora_B.weight"] @ change[f"{QUERY}.lora_A.weight"]).T
    after = load_file(tmp_path / "merged" / "model.safetensors")[f"{QUERY}.weight"]
    assert torch.equal(after, (before[f"{QUERY}.weight"].float() + delta).to(torch.bfloat16))


def test_a_layer_that_was_trained_as_a_whole_replaces_the_bases(tmp_path: Path) -> None:
    whole = torch.randn(5, 4)
    base, adapter, _ = make(tmp_path, {"lm_head.modules_to_save.weight": whole})
    merge(str(base), str(adapter), str(adapter))
    assert torch.equal(load_file(adapter / "model.safetensors")["lm_head.weight"], whole.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("adapter", "config", "code", "words"),
    [
        (pair(QUERY), {"peft_type": "IA3"}, 18, "IA3"),
        (pair(QUERY), {"use_dora": True}, 18, "DoRA"),
        (pair("model.layers.9.q"), {}, 16, "does not have"),
        (pair(QUERY, rows=7), {}, 16, "was made for another model"),
        ({f"{QUERY}.lora_embedding_A": torch.ones(1)}, {}, 18, "lora_embedding_A"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(
    adapter: dict[str, torch.Tensor], config: dict[str, Any], code: int, words: str, tmp_path: Path
) -> None:
    base, folder, _ = make(tmp_path, adapter, **config)
    with pytest.raises(ModelError) as refusal:
        merge(str(base), str(folder), str(folder))
    assert refusal.value.exit_code == code
    assert words in f"{refusal.value.message} {refusal.value.hint}"
    assert not (folder / "model.safetensors").exists()
