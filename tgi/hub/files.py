"""Finds a model's files where they already are: a folder, a .gguf file, or the hub's cache. Never uses the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tgi.errors import ConfigError, ModelError

WEIGHTS_INDEX = "model.safetensors.index.json"
DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class FileHash:
    """What is known of one file of a model without reading it; `size` in bytes."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine.

    `model_id` is what users see, `revision` the commit on the hub (None elsewhere), `path` what
    `tgi.checkpoint.open_checkpoint` reads, and `folder` where configuration and tokenizer files lie. `hashes` are of
    its files, as far as they are known.
    """

    model_id: str
    revision: str | None
    path: Path
    folder: Path
    is_default: bool = False
    hashes: tuple[FileHash, ...] = ()


class NoSuchModel(ModelError):
    """A model that nobody knows by that name: it may be misspelt."""


class _Based(msgspec.Struct):
    base_model_name_or_path: str | None = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def split_revision(model_id: str, revision: str | None) -> tuple[str, str | None]:
    """`owner/name@v2` -> (`owner/name`, `v2`), unless that is a path here. Raises: ConfigError for two revisions."""
    name, sign, asked = model_id.rpartition("@")
    if (
        not sign
        or not name
        or not asked
        or Path(model_id).expanduser().exists()
        or model_id.startswith((".", "/", "~"))
    ):
        return model_id, revision
    if revision is not None and revision != asked:
        raise ConfigError(f"`{model_id}` and `--revision {revision}` name two revisions", hint="keep one of them")
    return name, asked


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


def cached_ids(cache: Path) -> list[str]:
    """The models of the hub's cache, whole or not, sorted."""
    return sorted(folder.name[len("models--") :].replace("--", "/", 1) for folder in cache.glob("models--*"))


def find_cached(model_id: str, revision: str | None, cache: Path) -> ModelFiles | None:
    """A complete snapshot in the hub's cache, which is laid out as its library does; None when files are missing."""
    repository, gguf = split_hub_id(model_id)
    storage = cache / f"models--{repository.replace('/', '--')}"
    commit = _commit(storage, revision or DEFAULT_REVISION)
    return in_snapshot(model_id, commit, storage / "snapshots" / commit, gguf) if commit else None


def find_cached_part(model_id: str, revision: str | None, cache: Path) -> ModelFiles | None:
    """Weights in the hub's cache that cannot be served: of an adapter, of draft heads, or without a tokenizer."""
    storage = cache / f"models--{model_id.replace('/', '--')}"
    commit = _commit(storage, revision or DEFAULT_REVISION)
    snapshot = storage / "snapshots" / (commit or "")
    return ModelFiles(model_id, commit, snapshot, snapshot) if commit and has_weights(snapshot) else None


def in_snapshot(model_id: str, commit: str, snapshot: Path, gguf: str | None) -> ModelFiles | None:
    """The model of one snapshot; None when it is incomplete. `gguf` names the one file that is wanted."""
    if gguf is not None:
        path = snapshot / gguf
        return ModelFiles(model_id, commit, path, snapshot) if path.exists() else None
    if not is_complete(snapshot):
        return None
    return ModelFiles(model_id, commit, in_folder(model_id, snapshot).path, snapshot)


def is_part(folder: Path) -> bool:
    """Whether the folder holds weights that need another model's: a PEFT adapter, or draft heads such as Medusa's."""
    return base_of(folder) is not None and any(file.exists() for file in folder.glob("*.safetensors"))


def base_of(folder: Path) -> str | None:
    """The id of the model that an adapter or draft heads were made for; None for a model of its own."""
    for name in ("adapter_config.json", "config.json"):
        try:
            config = msgspec.json.decode((folder / name).read_bytes(), type=_Based)
        except (OSError, msgspec.MsgspecError):
            continue
        if config.base_model_name_or_path:
            return config.base_model_name_or_path
    return None


def is_complete(folder: Path) -> bool:
    """Whether the folder holds one .gguf file, or weights, configuration and tokenizer of a safetensors model."""
    # Files of the hub's cache are links into its store: `exists` also sees that the target is there.
    weights = [file for file in folder.glob("*.safetensors") if file.exists()]
    if all(file.name.startswith("adapter_model") for file in weights):
        return len([file for file in folder.glob("*.gguf") if file.exists()]) == 1
    return not lacking(folder) and has_weights(folder)


def lacking(folder: Path) -> list[str]:
    """Files without which a safetensors model cannot be served."""
    return [name for name in ("config.json", "tokenizer.json") if not (folder / name).exists()]


def has_weights(folder: Path) -> bool:
    """Whether the folder holds safetensors: all that its index names, where it has one."""
    weights = {file.name for file in folder.glob("*.safetensors") if file.exists()}
    if not (folder / WEIGHTS_INDEX).exists():
        return bool(weights)
    try:
        index = msgspec.json.decode((folder / WEIGHTS_INDEX).read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError):
        return False
    return weights >= set(index.weight_map.values())


def _commit(storage: Path, revision: str) -> str | None:
    """The commit that a branch, a tag or a commit stands for, as far as the cache knows."""
    try:
        return revision if _COMMIT.fullmatch(revision) else (storage / "refs" / revision).read_text().strip() or None
    except (OSError, ValueError):
        return None
