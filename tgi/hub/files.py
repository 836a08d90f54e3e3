"""Finds a model's files where they already are: a folder, a .gguf file, or the hub's cache. Never uses the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tgi.errors import ModelError

WEIGHTS_INDEX = "model.safetensors.index.json"
DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine.

    `model_id` is what users see, `revision` the commit on the hub (None elsewhere), `path` what
    `tgi.checkpoint.open_checkpoint` reads, and `folder` where configuration and tokenizer files lie.
    """

    model_id: str
    revision: str | None
    path: Path
    folder: Path
    is_default: bool = False


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def in_folder(model_id: str, folder: Path) -> ModelFiles:
    """The model of a flat folder: its one .gguf file where it has no safetensors, else the folder itself."""
    gguf = sorted(folder.glob("*.gguf"))
    path = gguf[0] if len(gguf) == 1 and not any(folder.glob("*.safetensors")) else folder
    return ModelFiles(model_id, None, path, folder)


def find_local(model_id: str) -> ModelFiles | None:
    """The model at a local path; None when `model_id` reads as a hub id.

    Raises: ModelError (exit 12) when it can only be a path, and nothing is there.
    """
    path = Path(model_id).expanduser()
    if path.is_dir():
        return in_folder(model_id, path.resolve())
    if path.is_file():
        return ModelFiles(model_id, None, path.resolve(), path.resolve().parent)
    only_a_path = path.is_absolute() or model_id.startswith((".", "~")) or "\\" in model_id or model_id.count("/") > 2
    if only_a_path or ("/" not in model_id and model_id.endswith((".gguf", ".safetensors"))):
        raise ModelError(f"`{model_id}` does not exist", hint="check the path, or give a hub id such as `owner/name`",
                         exit_code=12)  # fmt: skip
    return None


def find_overridden(model_id: str | None, folder: Path) -> ModelFiles:
    """The model of `--weights-cache-override`. Raises: ModelError (exit 12) when the folder does not exist."""
    if not folder.is_dir():
        raise ModelError(f"`--weights-cache-override {folder}` is not a folder",
                         hint="give the folder that holds all files of the model", exit_code=12)  # fmt: skip
    return in_folder(model_id or folder.name, folder.resolve())


def split_hub_id(model_id: str) -> tuple[str, str | None]:
    """`owner/name/file.gguf` -> (`owner/name`, `file.gguf`); any other id comes back with None."""
    parts = model_id.split("/")
    return ("/".join(parts[:2]), parts[2]) if len(parts) == 3 and parts[2].endswith(".gguf") else (model_id, None)


def find_cached(model_id: str, revision: str | None, cache: Path) -> ModelFiles | None:
    """A complete snapshot in the hub's cache, which is laid out as its library does; None when files are missing."""
    repository, gguf = split_hub_id(model_id)
    storage = cache / f"models--{repository.replace('/', '--')}"
    wanted = revision or DEFAULT_REVISION
    try:
        commit = wanted if _COMMIT.fullmatch(wanted) else (storage / "refs" / wanted).read_text().strip()
    except (OSError, ValueError):
        return None
    snapshot = storage / "snapshots" / commit
    return in_snapshot(model_id, commit, snapshot, gguf)


def in_snapshot(model_id: str, commit: str, snapshot: Path, gguf: str | None) -> ModelFiles | None:
    """The model of one snapshot; None when it is incomplete. `gguf` names the one file that is wanted."""
    if gguf is not None:
        path = snapshot / gguf
        return ModelFiles(model_id, commit, path, snapshot) if path.exists() else None
    if not is_complete(snapshot):
        return None
    return ModelFiles(model_id, commit, in_folder(model_id, snapshot).path, snapshot)


def is_complete(folder: Path) -> bool:
    """Whether the folder holds one .gguf file, or weights, configuration and tokenizer of a safetensors model."""
    # Files of the hub's cache are links into its store: `exists` also sees that the target is there.
    weights = [file for file in folder.glob("*.safetensors") if file.exists()]
    if not weights:
        return len([file for file in folder.glob("*.gguf") if file.exists()]) == 1
    if not (folder / "config.json").exists() or not (folder / "tokenizer.json").exists():
        return False
    if not (folder / WEIGHTS_INDEX).exists():
        return True
    try:
        index = msgspec.json.decode((folder / WEIGHTS_INDEX).read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError):
        return False
    return {file.name for file in weights} >= set(index.weight_map.values())
