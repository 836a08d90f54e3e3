"""The tokenizer and the weights behind a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.serving import byte_level
from tgi.cli.bench_model import tokenizer, weights
from tgi.errors import ConfigError


def test_a_folder_with_a_tokenizer_is_enough(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert len(tokenizer(str(tmp_path), "main").encode("four").ids) == 4


def test_a_tokenizer_that_is_nowhere_is_refused_with_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("there is no network here")

    monkeypatch.setattr("tgi.cli.bench_model.hf_hub_download", offline)
    with pytest.raises(ConfigError, match=r"`--tokenizer-name no/such`: no tokenizer.json was found") as refused:
        tokenizer("no/such", "main")
    assert refused.value.hint


def test_weights_are_found_here_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    assert weights(str(file), None) == file
    assert weights("no/such-model", None) is None
    assert weights("./absent.gguf", None) is None
