"""Model ids are completed from the cache, without the libraries that take long to load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tgi.cli.models import complete_model, default_cache


def complete(text: str, **given: Path) -> list[tuple[str, str]]:
    context = click.Context(click.Command("x"))
    context.params = dict(given)
    return [(item.value, item.type) for item in complete_model(context, click.Argument(["m"]), text)]


def test_cached_models_are_offered_and_paths_otherwise(tmp_path: Path) -> None:
    for name in ("a--b", "a--b--c", "c--d"):
        (tmp_path / f"models--{name}").mkdir()
    assert complete("a", huggingface_hub_cache=tmp_path) == [("a/b", "plain"), ("a/b--c", "plain")]
    assert len(complete("", huggingface_hub_cache=tmp_path)) == 3
    assert complete("./", huggingface_hub_cache=tmp_path) == [("./", "file")]


@pytest.mark.parametrize(
    "variables",
    [{"HF_HOME": "/x"}, {"XDG_CACHE_HOME": "/x"}, {"HF_HUB_CACHE": "/x"}, {"HUGGINGFACE_HUB_CACHE": "/x"}, {}],
)
def test_the_cache_is_where_the_library_has_it(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert str(default_cache()) == theirs.stdout.strip()
