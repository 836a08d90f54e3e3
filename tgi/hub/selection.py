"""Which files of a repository are needed, and what fetching them would cost: decided before anything is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tgi.errors import ModelError

OTHER_FILES = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "model.safetensors.index.json",
    "adapter_config.json",
})  # fmt: skip
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")

_NAMED_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")
# TGI skips these too: what a training run leaves beside its weights.
_NOT_WEIGHTS = ("arguments", "args", "training", "optimizer", "scheduler", "rng_state")


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a model: `size` and `present` in bytes.

    `present` is how much of it is on this machine: `size` when it is whole, less for the part of an interrupted
    download. `sha256` is what the hub promises; None where it promises another checksum, `git_id` then.
    """

    path: str
    size: int
    present: int = 0
    sha256: str | None = None
    git_id: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether nothing of it is left to fetch."""
        return self.present >= self.size

    @property
    def key(self) -> str | None:
        """The name of its content in the hub's cache."""
        return self.sha256 or self.git_id


@dataclass(frozen=True, slots=True)
class Plan:
    """All files of one model at one commit, weights last. `commit` is None outside of the hub."""

    model_id: str
    repository: str
    revision: str | None
    commit: str | None
    files: tuple[PlannedFile, ...]

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """What is left to fetch."""
        return sum(max(0, file.size - file.present) for file in self.files)


def choose(model_id: str, gguf: str | None, names: Iterable[str], *, convert: bool = False) -> list[str]:
    """The files to fetch: safetensors and what goes with them, else the one .gguf file; weights come last.

    `gguf` names the one file that is wanted. With `convert`, pickled weights are fetched where there is nothing better.

    Raises: ModelError with exit code 12 (no weights, or which?) or 16 (only pickled ones, or a path outside).
    """
    names = list(names)
    for name in names:
        if not is_inside(name):
            raise ModelError(f"`{model_id}` lists a file outside its own folder: {name[:200]!r}",
                             hint="do not use this repository", exit_code=16)  # fmt: skip
    root = [name for name in names if "/" not in name]
    if gguf is not None:
        if gguf not in root:
            raise ModelError(f"`{model_id}` does not exist on the hub", hint=_offer(root), exit_code=12)
        return [gguf]
    weights = _safetensors(root)
    if weights:
        return _companions(names) + weights
    gguf_files = [name for name in root if name.endswith(".gguf")]
    if len(gguf_files) == 1:
        return gguf_files
    if gguf_files:
        raise ModelError(f"`{model_id}` holds {len(gguf_files)} .gguf files", hint=_offer(root), exit_code=12)
    pickles = pickled(root)
    if pickles and convert:
        return _companions(names) + [name for name in root if name.endswith(".index.json") and name[:-11] in _stems(
            pickles)] + pickles  # fmt: skip
    if pickles:
        raise ModelError(f"`{model_id}` holds only pickled weights (`{pickles[0]}`), which are never loaded: "
                         "unpickling runs code",
                         hint=f"`tgi download --convert {model_id}` makes safetensors of them, in a process apart; "
                         "or give a `--revision` with .safetensors files (often `refs/pr/N`)",
                         exit_code=16)  # fmt: skip
    raise ModelError(f"`{model_id}` holds no weights: neither .safetensors nor .gguf files",
                     hint="check the model's page on the hub", exit_code=12)  # fmt: skip


def pickled(names: Iterable[str]) -> list[str]:
    """The pickled weights among `names`: .bin files, else .pt files and their like."""
    found = [name for name in names if name.endswith(PICKLES) and not _is_no_weight(name)]
    return sorted(name for name in found if name.endswith(".bin")) or sorted(found)


def folder_files(folder: Path) -> list[Path]:
    """The files of a safetensors model's folder that are read when it is served, sorted."""
    names = [path.relative_to(folder).as_posix() for path in folder.glob("*") if path.is_file()]
    names += [path.relative_to(folder).as_posix() for path in folder.glob("additional_chat_templates/*.jinja")]
    return [folder / name for name in sorted({*_companions(names), *_safetensors(names)})]


def is_inside(name: str) -> bool:
    """Whether a file name of the hub stays inside the folder it is put into."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\\0:")


def _safetensors(names: Iterable[str]) -> list[str]:
    # Mistral's repositories repeat the weights under other names in consolidated*.safetensors.
    found = [
        name for name in names
        if "/" not in name and name.endswith(".safetensors") and not name.startswith("consolidated")
        and not _is_no_weight(name)
    ]  # fmt: skip
    if "model.safetensors" in found and "model.safetensors.index.json" not in names:
        return ["model.safetensors"]
    whole = [name for name in found if not name.startswith(ADAPTER_WEIGHTS)]
    return sorted(whole or found)


def _companions(names: Iterable[str]) -> list[str]:
    names = set(names)
    return sorted(name for name in names if _NAMED_TEMPLATE.fullmatch(name)) + sorted(OTHER_FILES & names)


def _stems(pickles: list[str]) -> set[str]:
    """`pytorch_model.bin` for `pytorch_model-00001-of-00002.bin`, whose index is called after it."""
    return {re.sub(r"-\d+-of-\d+", "", name) for name in pickles}


def _is_no_weight(name: str) -> bool:
    return any(word in name for word in _NOT_WEIGHTS)


def _offer(names: list[str]) -> str:
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    return f"name one of its files after the id, as in `owner/name/file.gguf`: {', '.join(gguf[:12]) or 'it has none'}"
