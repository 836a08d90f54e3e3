"""Pickled weights (.bin, .pt) as safetensors: only tensors are unpickled, and tensors that are one are written once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tgi.conversion.writer import Outline, write_safetensors
from tgi.errors import ModelError

# Output layers that many models tie to their embedding: the embedding is the one to keep.
_TIED = ("lm_head.weight", "embed_out.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def convert(folder: str, names: list[str]) -> list[str]:
    """Write a .safetensors file for each of the pickled files `names` in `folder`; an index where there are several.

    Returns: the files written. Raises: ModelError (exit 16) for a file that holds more than tensors.
    """
    root = Path(folder)
    places: dict[str, str] = {}
    total = 0
    for name in names:
        target = _target(name)
        tensors = without_ties(_load(root / name))
        write_safetensors(
            root / target, {key: Outline(value.dtype, tuple(value.shape)) for key, value in tensors.items()},
            tensors.__getitem__,
        )  # fmt: skip
        places |= dict.fromkeys(tensors, target)
        total += sum(value.numel() * value.element_size() for value in tensors.values())
    written = sorted(set(places.values()))
    if len(names) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (root / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        written.append("model.safetensors.index.json")
    return written


def without_ties(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each stored once: of names for the same memory one is kept, and views of a part become their own."""
    kept: dict[tuple[Any, ...], str] = {}
    for name in sorted(tensors, key=lambda name: (name.endswith(_TIED), name)):
        value = tensors[name]
        place: tuple[Any, ...] = (
            value.untyped_storage().data_ptr(),
            value.storage_offset(),
            tuple(value.shape),
            value.stride(),
            value.dtype,
        )
        kept.setdefault(place if value.numel() else (name,), name)
    return {name: tensors[name].contiguous() for name in tensors if name in kept.values()}


def _target(name: str) -> str:
    stem = Path(name).stem.removeprefix("pytorch_")
    return f"{'model' if stem == 'pytorch' else stem}.safetensors"


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of before torch 1.6 cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"`{path.name}` holds more than tensors, and was not read: unpickling it would run code",
                         hint="use a repository or a revision with .safetensors files",
                         exit_code=16) from error  # fmt: skip
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"`{path.name}` is corrupt: {next(iter(str(error).splitlines()), type(error).__name__)}",
                         hint="delete the file and download the model again", exit_code=16) from error  # fmt: skip
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"`{path.name}` holds no table of tensors",
                         hint="use a repository or a revision with .safetensors files", exit_code=16)  # fmt: skip
    return {str(name): value for name, value in state.items()}
