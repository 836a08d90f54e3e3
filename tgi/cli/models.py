"""Names of models on the command line: what the shell may complete."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def complete_model(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Models of the hub's cache whose id begins so; and files, for what may be a path."""
    given = ctx.params.get("huggingface_hub_cache")
    found = [name for name in _cached(given or default_cache()) if name.startswith(incomplete)]
    items = [CompletionItem(name) for name in found]
    return items if found or not incomplete else [CompletionItem(incomplete, type="file")]


def default_cache() -> Path:
    """The hub's cache by its environment, found without its library, which takes too long to load for a key press."""
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return base.expanduser() / "hub"


def _cached(cache: Path) -> list[str]:
    return sorted(folder.name[len("models--") :].replace("--", "/", 1) for folder in cache.glob("models--*"))
