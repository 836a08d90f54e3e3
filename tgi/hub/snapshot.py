"""Fetches a model from the hub into the hub's cache, and says in our words what went wrong.

Imported only when something must be fetched: the hub's library takes a while to load.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from tgi.errors import ModelError
from tgi.hub.files import ModelFiles, in_snapshot, split_hub_id
from tgi.hub.wheel import DISK_FULL, Progress, disk_full

_REPLY_TIMEOUT_S = 5.0  # for the first answers of the hub: a machine without network must not wait long
_OTHER_FILES = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "model.safetensors.index.json",
})  # fmt: skip
_NAMED_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# The base class of every error of the HTTP library below the hub's, whichever library that is.
_HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)


def download(model_id: str, revision: str | None, cache: Path, *, token: str | None, endpoint: str | None,
             progress: Progress) -> ModelFiles:  # fmt: skip
    """Fetch weights, configuration and tokenizer from the hub into its cache; what is there already is kept.

    Raises: ModelError with exit code 12 (not found), 13 (gated), 14 (network), 15 (disk full), 16 (only pickled
            weights) or 18 (no fast tokenizer).
    """
    repository, gguf = split_hub_id(model_id)
    with _hub_errors(repository, revision, cache):
        api = HfApi(endpoint=endpoint, token=token)
        info = api.model_info(repository, revision=revision, timeout=_REPLY_TIMEOUT_S, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        wanted = _choose(model_id, gguf, sizes)
        total = sum(sizes[name] for name in wanted)
        _check_room(cache, total)
        snapshot = snapshot_download(
            repository, revision=revision, cache_dir=cache, allow_patterns=wanted, etag_timeout=_REPLY_TIMEOUT_S,
            token=token, endpoint=endpoint, tqdm_class=_bar(model_id, total, progress),
        )  # fmt: skip
    files = in_snapshot(model_id, Path(snapshot).name, Path(snapshot), gguf)
    if files is None:
        raise ModelError(f"the hub's repository `{repository}` lacks a config.json or a tokenizer.json",
                         hint="choose a repository that transformers' fast tokenizers can read, or a .gguf file",
                         exit_code=18)  # fmt: skip
    return files


def _choose(model_id: str, gguf: str | None, sizes: dict[str, int]) -> list[str]:
    """The files of the repository to fetch: safetensors and what goes with them, else the one .gguf file."""
    root = [name for name in sizes if "/" not in name]
    if gguf is not None:
        if gguf not in root:
            raise ModelError(f"`{model_id}` does not exist on the hub", hint=_offer(root), exit_code=12)
        return [gguf]
    # Mistral's repositories repeat the weights under other names in consolidated*.safetensors.
    weights = [name for name in root if name.endswith(".safetensors") and not name.startswith("consolidated")]
    if weights:
        single = "model.safetensors" in weights and "model.safetensors.index.json" not in root
        templates = sorted(name for name in sizes if _NAMED_TEMPLATE.fullmatch(name))
        return templates + sorted(_OTHER_FILES & set(root)) + (["model.safetensors"] if single else sorted(weights))
    gguf_files = [name for name in root if name.endswith(".gguf")]
    if len(gguf_files) == 1:
        return gguf_files
    if gguf_files:
        raise ModelError(f"`{model_id}` holds {len(gguf_files)} .gguf files", hint=_offer(root), exit_code=12)
    if any(name.endswith(_PICKLES) for name in root):
        raise ModelError(f"`{model_id}` holds only pickled weights, which are never loaded: unpickling runs code",
                         hint="give a `--revision` with .safetensors files (often `refs/pr/N`), or another repository",
                         exit_code=16)  # fmt: skip
    raise ModelError(f"`{model_id}` holds no weights: neither .safetensors nor .gguf files",
                     hint="check the model's page on the hub", exit_code=12)  # fmt: skip


def _offer(names: list[str]) -> str:
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    return f"name one of its files after the id, as in `owner/name/file.gguf`: {', '.join(gguf[:12]) or 'it has none'}"


def _check_room(cache: Path, needed: int) -> None:
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if shutil.disk_usage(existing).free < needed:
        raise disk_full(cache, needed)


@contextmanager
def _hub_errors(repository: str, revision: str | None, cache: Path) -> Iterator[None]:
    """Turn whatever the hub's library raises into a ModelError that says what to do."""
    named = f"`{repository}`" + (f" (revision `{revision}`)" if revision else "")
    try:
        yield
    except ModelError:
        raise
    except GatedRepoError as error:
        raise ModelError(f"{named} is gated: its owner grants access",
                         hint="accept the terms on the model's page, then set HF_TOKEN or run `hf auth login`",
                         exit_code=13) from error  # fmt: skip
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(f"{named} is neither a path here nor on the hub",
                         hint="check the spelling; a private model needs HF_TOKEN or `hf auth login`",
                         exit_code=12) from error  # fmt: skip
    except (OSError, RuntimeError, _HTTP_ERROR) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise disk_full(cache) from error
        cause = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(f"{named} is not in the cache, and the hub cannot be reached: {cause}",
                         hint="check the network connection, or give a local folder or .gguf file",
                         exit_code=14) from error  # fmt: skip


def _bar(what: str, total: int, progress: Progress) -> type[Any]:
    """A progress bar class that draws nothing, and reports to `progress` instead."""
    furthest = 0

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
        monitor_interval = 0  # no thread that watches over redrawing

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            settings |= {"file": io.StringIO(), "disable": False}
            settings.pop("name", None)
            super().__init__(*arguments, **settings)

        def display(self, *arguments: Any, **settings: Any) -> None:
            """Nothing is drawn."""

        def update(self, n: float | None = 1) -> Any:
            nonlocal furthest
            moved = super().update(n)
            # The library keeps several bars: files, and one or two of bytes.
            if self.unit == "B" and self.n > furthest:
                furthest = int(self.n)
                progress(what, furthest, max(total, furthest))
            return moved

    return Bar
