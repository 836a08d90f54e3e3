"""The files behind a benchmark: the tokenizer that counts, and the weights that the roof and the hash come from."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer

from tgi.cli.environment import hub_settings
from tgi.errors import ConfigError, TgiError
from tgi.hub.download import DEFAULT_MODEL_ID
from tgi.hub.files import find_cached, find_local
from tgi.hub.tokenizer_files import load_encoding


def tokenizer(name: str, revision: str) -> Tokenizer:
    """The tokenizer of a folder, a .gguf file or a model of the hub, of which only tokenizer.json is fetched.

    Raises: ConfigError where there is none, ModelError for a damaged one.
    """
    local = find_local(name)
    if local is not None:
        return load_encoding(local.path)[0]
    known = weights(name, None if revision == "main" else revision)
    if known is not None:
        return load_encoding(known)[0]
    try:
        path = hf_hub_download(name, "tokenizer.json", revision=revision, token=hub_settings().token)
    except (EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"`--tokenizer-name {name}`: no tokenizer.json was found ({reason})",
            hint="give a folder that has one, or leave the flag out: then the server counts",
        ) from error
    return Tokenizer.from_file(path)


def weights(model_id: str, revision: str | None) -> Path | None:
    """The weights of a model, if they are on this machine already; nothing is fetched."""
    try:
        found = find_local(model_id) or find_cached(model_id, revision, Path(constants.HF_HUB_CACHE))
    except TgiError:
        return None
    if found is not None:
        return found.path
    if model_id == DEFAULT_MODEL_ID:
        settings = hub_settings()
        default = settings.packaged_default or settings.default_wheel.path(settings.model_cache)
        return default if default.is_file() else None
    return None
