"""tgi.lock: deterministic, complete, and a reason to refuse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tgi.errors import ConfigError, ModelError
from tgi.hub.digests import Digests
from tgi.hub.files import ModelFiles
from tgi.hub.lock import LockedModel, check, locked_model, measure, paths_of, read_lock, write_lock
from tgi.hub.watch import Watcher

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"w" * 5000}


def here(folder: Path) -> ModelFiles:
    """A model of the hub in a folder."""
    folder.mkdir(exist_ok=True)
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text("not read when serving")
    return ModelFiles("owner/name", COMMIT, folder, folder)


def take(files: ModelFiles, own: Path) -> LockedModel:
    return measure(files, "main", Watcher(), Digests(own))


def test_every_file_is_noted_by_hash_size_repository_and_commit(tmp_path: Path) -> None:
    path = tmp_path / "tgi.lock"
    write_lock(path, "owner/name", take(here(tmp_path / "m"), tmp_path))
    content = json.loads(path.read_text())
    assert content["version"] == 1
    assert content["models"]["owner/name"]["revision"] == "main"
    assert content["models"]["owner/name"]["files"] == [
        {"commit": COMMIT, "path": name, "repository": "owner/name",
         "sha256": hashlib.sha256(CONTENT[name]).hexdigest(), "size": len(CONTENT[name])}
        for name in sorted(CONTENT)
    ]  # fmt: skip
    assert locked_model(path, "owner/name").commit == COMMIT


def test_the_same_model_gives_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    model = take(here(tmp_path / "m"), tmp_path)
    for names, file in ((("a/b", "owner/name"), "one"), (("owner/name", "a/b", "owner/name"), "two")):
        for name in names:
            write_lock(tmp_path / file, name, model)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes().endswith(b"}\n")


def test_a_model_that_is_as_it_was_passes(tmp_path: Path) -> None:
    files = here(tmp_path / "m")
    check(files, take(files, tmp_path), Watcher(), Digests(tmp_path))


@pytest.mark.parametrize("name", list(CONTENT))
@pytest.mark.parametrize("drift", ["changed", "gone"])
def test_drift_is_named_with_both_hashes(name: str, drift: str, tmp_path: Path) -> None:
    files = here(tmp_path / "m")
    locked = take(files, tmp_path)
    new = CONTENT[name][:-1] + b"!"
    if drift == "changed":
        (files.folder / name).write_bytes(new)
    else:
        (files.folder / name).unlink()
    with pytest.raises(ModelError) as refusal:
        check(files, locked, Watcher(), Digests(tmp_path))
    assert refusal.value.exit_code == 16
    assert f"`{name}`" in refusal.value.message
    assert hashlib.sha256(CONTENT[name]).hexdigest() in refusal.value.message
    assert (hashlib.sha256(new).hexdigest() if drift == "changed" else "no such file") in refusal.value.message


def test_a_file_that_was_added_is_drift_too(tmp_path: Path) -> None:
    files = here(tmp_path / "m")
    locked = take(files, tmp_path)
    (files.folder / "chat_template.jinja").write_text("x")
    with pytest.raises(ModelError, match=r"`chat_template.jinja`.*expected no such file"):
        check(files, locked, Watcher(), Digests(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'{"version": 2, "models": {}}', "version 2"),
        (b'{"models": {"m": {"files": [{"path": "a", "sha256": "x", "size": 1}]}}}', "holds no sha256 for `a`"),
    ],
)
def test_a_lock_that_cannot_be_used_says_so(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tgi.lock"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as refusal:
        read_lock(path)
    assert "tgi download --lock" in (refusal.value.hint or "")


def test_a_model_that_is_not_locked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tgi.lock"
    write_lock(path, "owner/name", take(here(tmp_path / "m"), tmp_path))
    with pytest.raises(ConfigError, match="does not lock `owner/other`; it locks `owner/name`"):
        locked_model(path, "owner/other")


def test_of_a_gguf_model_only_that_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    (tmp_path / "config.json").touch()
    assert paths_of(ModelFiles("m", None, path, tmp_path)) == [("m.gguf", path)]
