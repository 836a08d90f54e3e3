"""Local lookup: paths, the override folder, and the hub's cache as its library lays it out."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from tgi.errors import ConfigError, ModelError
from tgi.hub.files import (
    base_of,
    cached_ids,
    find_cached,
    find_cached_part,
    find_local,
    find_overridden,
    split_hub_id,
    split_revision,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_snapshot(
    cache: Path, repository: str = "owner/name", files: tuple[str, ...] = (), ref: str = "main"
) -> Path:
    """A snapshot of links into a store of blobs, as huggingface_hub makes it."""
    storage = cache / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    for folder in (storage / "blobs", snapshot, (storage / "refs" / ref).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (storage / "refs" / ref).write_text(COMMIT)
    for name in files:
        (storage / "blobs" / name).write_text("{}")
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    return snapshot


WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


def test_a_complete_snapshot_is_found_where_the_hub_library_finds_it(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, files=WHOLE)
    found = find_cached("owner/name", None, tmp_path)
    assert found is not None
    assert (found.model_id, found.revision, found.path, found.folder) == ("owner/name", COMMIT, snapshot, snapshot)
    theirs = huggingface_hub.try_to_load_from_cache("owner/name", "config.json", cache_dir=tmp_path)
    assert theirs == str(found.folder / "config.json")


@pytest.mark.parametrize("missing", WHOLE)
def test_a_snapshot_without_one_of_its_files_is_not_complete(missing: str, tmp_path: Path) -> None:
    cached_snapshot(tmp_path, files=tuple(name for name in WHOLE if name != missing))
    assert find_cached("owner/name", None, tmp_path) is None


def test_a_link_without_its_target_is_not_complete(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, files=WHOLE)
    (snapshot / "model.safetensors").resolve().unlink()
    assert find_cached("owner/name", None, tmp_path) is None


def test_all_shards_of_an_index_must_be_there(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, files=("config.json", "tokenizer.json", "one.safetensors"))
    index = snapshot / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert find_cached("owner/name", None, tmp_path) is None
    (snapshot / "two.safetensors").touch()
    assert find_cached("owner/name", None, tmp_path) is not None
    index.write_text("{")
    assert find_cached("owner/name", None, tmp_path) is None


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_revision_is_a_name_or_a_commit(revision: str | None, tmp_path: Path) -> None:
    cached_snapshot(tmp_path, files=WHOLE)
    assert find_cached("owner/name", revision, tmp_path) is not None
    assert find_cached("owner/name", "refs/pr/1", tmp_path) is None
    cached_snapshot(tmp_path, ref="refs/pr/1")
    assert find_cached("owner/name", "refs/pr/1", tmp_path) is not None


def test_a_gguf_file_of_a_repository_is_named_after_the_id(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, files=("a.gguf", "b.gguf"))
    assert split_hub_id("owner/name/b.gguf") == ("owner/name", "b.gguf")
    assert find_cached("owner/name", None, tmp_path) is None  # which of the two?
    found = find_cached("owner/name/b.gguf", None, tmp_path)
    assert found is not None
    assert found.path == snapshot / "b.gguf"
    assert find_cached("owner/name/c.gguf", None, tmp_path) is None


def test_a_folder_and_a_file_are_found_by_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path.parent)
    folder = find_local(tmp_path.name)
    file = find_local(str(tmp_path / "model.gguf"))
    assert folder is not None
    assert file is not None
    assert folder.path == file.path == tmp_path / "model.gguf"
    assert folder.model_id == tmp_path.name
    (tmp_path / "model.safetensors").touch()
    folder = find_local(tmp_path.name)
    assert folder is not None
    assert folder.path == folder.folder == tmp_path


@pytest.mark.parametrize("path", ["/no/such/model", "./model", "model.gguf", "../name", "a/b/c/d"])
def test_what_can_only_be_a_path_is_not_looked_for_elsewhere(path: str) -> None:
    with pytest.raises(ModelError, match="does not exist") as refusal:
        find_local(path)
    assert refusal.value.exit_code == 12


def test_a_hub_id_is_no_local_model() -> None:
    assert find_local("owner/name") is None
    assert find_local("gpt2") is None
    assert find_local("owner/name/file.gguf") is None


def test_the_override_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert find_overridden("owner/name", tmp_path).model_id == "owner/name"
    assert find_overridden(None, tmp_path).model_id == tmp_path.name
    assert find_overridden(None, tmp_path).path == tmp_path
    with pytest.raises(ModelError, match="weights-cache-override") as refusal:
        find_overridden(None, tmp_path / "absent")
    assert refusal.value.exit_code == 12


def test_a_revision_after_the_id_is_one_and_in_a_path_is_none(tmp_path: Path) -> None:
    assert split_revision("owner/name@v1", None) == ("owner/name", "v1")
    assert split_revision("owner/name@refs/pr/1", None) == ("owner/name", "refs/pr/1")
    assert split_revision("owner/name@v1", "v1") == ("owner/name", "v1")
    assert split_revision("owner/name", "v1") == ("owner/name", "v1")
    (tmp_path / "a@b").mkdir()
    for path in (str(tmp_path / "a@b"), "./a@b", "~/a@b", "/none/a@b"):
        assert split_revision(path, None) == (path, None)
    with pytest.raises(ConfigError, match="two revisions"):
        split_revision("owner/name@v1", "v2")


def test_an_adapter_is_found_with_the_id_of_its_base(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, "owner/adapter", ("adapter_model.safetensors",))
    assert base_of(snapshot) is None
    (snapshot / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    assert base_of(snapshot) == "owner/base"
    assert find_cached("owner/adapter", None, tmp_path) is None
    found = find_cached_part("owner/adapter", None, tmp_path)
    assert found is not None
    assert found.folder == snapshot
    (snapshot / "adapter_config.json").write_text("{")
    assert base_of(snapshot) is None


def test_the_models_of_the_cache_are_known_by_their_ids(tmp_path: Path) -> None:
    cached_snapshot(tmp_path, "owner/name")
    cached_snapshot(tmp_path, "gpt2")
    (tmp_path / "datasets--x--y").mkdir()
    assert cached_ids(tmp_path) == ["gpt2", "owner/name"]
    assert cached_ids(tmp_path / "none") == []
