"""Merges a LoRA adapter into the model it was made for, so that the result is a model like any other.

Source: PEFT's format (`adapter_config.json`, `base_model.model.<module>.lora_A.weight`), and its definition
W + scale * B @ A, with scale = alpha / r, or alpha / sqrt(r) where `use_rslora` says so.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from tgi.checkpoint import Checkpoint, open_checkpoint
from tgi.checkpoint.safetensors import SafetensorsCheckpoint
from tgi.conversion.writer import TORCH_TYPES, Outline, write_safetensors
from tgi.errors import ModelError

_PREFIX = "base_model.model."
_COPIED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def merge(base: str, adapter: str, target: str) -> list[str]:
    """Write the base model with the adapter merged into it to the folder `target`, which may be the adapter's.

    Returns: the files written. Raises: ModelError (exit 16 or 18) for an adapter that is not LoRA, or does not fit.
    """
    base_folder, adapter_folder, folder = Path(base), Path(adapter), Path(target)
    config = json.loads((adapter_folder / "adapter_config.json").read_bytes())
    _check_kind(config)
    merger = _Merger(open_checkpoint(base_folder), _open_adapter(adapter_folder), config)
    folder.mkdir(parents=True, exist_ok=True)
    written = ["model.safetensors", "model.safetensors.index.json"]
    for name in _COPIED:
        # The adapter's own tokenizer knows tokens that were added for it.
        source = adapter_folder / name if (adapter_folder / name).exists() else base_folder / name
        if source.exists() and not (folder / name).exists():
            shutil.copyfile(source, folder / name)
            written.append(name)
    write_safetensors(folder / "model.safetensors", merger.outlines, merger.tensor)
    # The adapter's own weights may lie beside: the index says that they are not the model's.
    index = {"metadata": {}, "weight_map": dict.fromkeys(sorted(merger.outlines), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return written


class _Merger:
    """The merged tensors, one at a time."""

    def __init__(self, base: Checkpoint, adapter: Checkpoint, config: dict[str, Any]) -> None:
        self._base = base
        self._adapter = adapter
        self._config = config
        self._pairs: dict[str, tuple[str, str]] = {}
        self._replaced: dict[str, str] = {}
        for name in sorted(adapter.names()):
            self._place(name)
        raw = {name: base.tensor(name) for name in sorted(base.names())}
        shapes = {name: tensor.shape for name, tensor in raw.items()}
        shapes |= {name: adapter.tensor(source).shape for name, source in self._replaced.items()}
        types = {
            name: raw[name].layout if name in raw else adapter.tensor(self._replaced[name]).layout for name in shapes
        }
        unknown = sorted(set(types.values()) - TORCH_TYPES.keys())
        if unknown:
            raise ModelError(f"an adapter cannot be merged into weights of type {unknown[0]}",
                             hint="merge it into the model before it is quantized", exit_code=18)  # fmt: skip
        self.outlines = {name: Outline(TORCH_TYPES[types[name]], shapes[name]) for name in shapes}

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor of the merged model, in the type of the base model."""
        if name in self._replaced:
            return _read(self._adapter, self._replaced[name]).to(self.outlines[name].dtype)
        weight = _read(self._base, name)
        if name not in self._pairs:
            return weight
        down, up = (_read(self._adapter, part).to(torch.float32) for part in self._pairs[name])
        change = self._scale(name, down.shape[0]) * (up @ down)
        if self._config.get("fan_in_fan_out"):
            change = change.T
        if change.shape != weight.shape:
            raise ModelError(f"the adapter changes `{name}` by {tuple(change.shape)}, it has {tuple(weight.shape)}",
                             hint="the adapter was made for another model", exit_code=16)  # fmt: skip
        return (weight.to(torch.float32) + change).to(weight.dtype)

    def _place(self, name: str) -> None:
        module = name.removeprefix(_PREFIX)
        if ".lora_A." in module:
            weight = self._known(f"{module.partition('.lora_A.')[0]}.weight", name)
            self._pairs[weight] = (name, name.replace(".lora_A.", ".lora_B."))
        elif ".lora_B." in module:
            return
        elif "lora_" in module:
            raise ModelError(f"the adapter holds `{name}`: only LoRA of linear layers can be merged",
                             hint="merge it with PEFT's `merge_and_unload()` and serve the result",
                             exit_code=18)  # fmt: skip
        else:  # trained as a whole: modules_to_save, or biases
            self._replaced[module.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = name

    def _known(self, weight: str, source: str) -> str:
        for candidate in (weight, weight.removeprefix("model."), f"model.{weight}", f"transformer.{weight}",
                          weight.removeprefix("transformer.")):  # fmt: skip
            if candidate in self._base.names():
                return candidate
        raise ModelError(f"the adapter's `{source}` changes `{weight}`, which the base model does not have",
                         hint="the adapter was made for another model", exit_code=16)  # fmt: skip

    def _scale(self, weight: str, rank: int) -> float:
        module = weight.removesuffix(".weight")
        alpha = float(_of_pattern(self._config.get("alpha_pattern"), module, self._config.get("lora_alpha", rank)))
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)


def _of_pattern(patterns: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value for a module: of the first pattern that its end matches, as PEFT reads them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _check_kind(config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type", "LORA")).upper()
    for name, bad in ((f"an adapter of type {kind}", kind != "LORA"), ("a DoRA adapter", bool(config.get("use_dora")))):
        if bad:
            raise ModelError(f"{name} cannot be merged: only LoRA can",
                             hint="merge it with PEFT's `merge_and_unload()` and serve the result",
                             exit_code=18)  # fmt: skip


def _open_adapter(folder: Path) -> Checkpoint:
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        raise ModelError(f"`{folder}` holds no adapter_model.safetensors",
                         hint="`tgi download --convert` makes it of an adapter_model.bin", exit_code=12)  # fmt: skip
    return SafetensorsCheckpoint(folder, (path,), config={})


def _read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    raw = checkpoint.tensor(name)
    if raw.data.size == 0:
        return torch.empty(raw.shape, dtype=TORCH_TYPES[raw.layout])
    return torch.frombuffer(bytearray(raw.data.tobytes()), dtype=TORCH_TYPES[raw.layout]).reshape(raw.shape)
