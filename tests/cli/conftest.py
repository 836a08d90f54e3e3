"""A clean environment for commands run in this process."""

from __future__ import annotations

import os

import pytest

from tgi.cli.options import Setting, all_options

OTHER_VARIABLES = ("NO_COLOR", "LOG_COLORIZE", "TGI_NIX", "TGI_CUDA_DRIVER", "TGI_DEFAULT_MODEL")


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that tgi reads, so that a developer's own environment changes no test."""
    for option in all_options():
        assert isinstance(option, Setting)
        if isinstance(option.envvar, str):
            monkeypatch.delenv(option.envvar, raising=False)
    for name in (*OTHER_VARIABLES, *(n for n in os.environ if n.startswith("HF_"))):
        monkeypatch.delenv(name, raising=False)
