"""What a result says of itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tgi.bench import facts


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["tgi", "bench", "--api-key", "s3cret", "-c", "1"], "tgi bench --api-key HIDDEN -c 1"),
        (["tgi", "bench", "--api-key=s3cret"], "tgi bench --api-key=HIDDEN"),
        (["tgi", "bench", "--slo", "ttft=1s itl=2s"], "tgi bench --slo 'ttft=1s itl=2s'"),
    ],
)
def test_a_command_can_be_copied_and_holds_no_secret(words: list[str], shown: str) -> None:
    assert facts.command(words) == shown


def test_versions_name_what_measured() -> None:
    assert {"tgi", "python", "aiohttp", "numpy"} <= set(facts.versions())


def test_the_hash_of_one_file_is_its_sha256(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"weights")
    expected = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert facts.model_hash(weights) == expected
    (tmp_path / "config.json").write_text("{}")
    assert facts.model_hash(tmp_path) == expected


def test_the_hash_of_several_files_depends_on_each(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "b.safetensors").write_bytes(b"2")
    before = facts.model_hash(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"3")
    assert facts.model_hash(tmp_path) != before


def test_the_hubs_cache_knows_the_hash_already(tmp_path: Path) -> None:
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"weights")
    link = tmp_path / "model.safetensors"
    os.symlink(blob, link)
    assert facts.model_hash(link) == f"sha256:{'ab' * 32}"
