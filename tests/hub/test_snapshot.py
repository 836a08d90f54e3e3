"""Downloads from a hub on loopback, through the hub's own library: what is fetched, and what faults become."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_hub import FakeHub
from tgi.errors import ModelError
from tgi.hub import snapshot
from tgi.hub.digests import Digests
from tgi.hub.files import ModelFiles, find_cached

MODEL = {
    "config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": b"w" * 100_000, "README.md": b"r",
    "pytorch_model.bin": b"p", "consolidated.safetensors": b"c", "onnx/model.onnx": b"o", "modeling_x.py": b"import os",
    "chat_template.jinja": b"{{ messages }}", "generation_config.json": b"{ }", "training_args.safetensors": b"t",
}  # fmt: skip
FETCHED = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]


def fetch(hub: FakeHub, cache: Path, model_id: str = "owner/name", revision: str | None = None,
          token: str | None = None, seen: list[Any] | None = None, **wishes: bool) -> ModelFiles:  # fmt: skip
    def progress(what: str, done_bytes: int, total_bytes: int | None) -> None:
        if seen is not None:
            seen.append((what, done_bytes, total_bytes))

    return snapshot.download(model_id, revision, cache, token=token, endpoint=hub.endpoint, progress=progress,
                             digests=Digests(cache), **wishes)  # fmt: skip


def refusal(*arguments: Any, **settings: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        fetch(*arguments, **settings)
    return caught.value


def test_only_weights_configuration_and_tokenizer_are_fetched_and_then_cached(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    commit = fake_hub.add("owner/name", MODEL)
    seen: list[Any] = []
    files = fetch(fake_hub, tmp_path, seen=seen, token="secret")
    assert sorted({s.path.rsplit("/", 1)[1] for s in fake_hub.seen if "/resolve/" in s.path}) == FETCHED
    assert (files.model_id, files.revision) == ("owner/name", commit)
    assert sorted(path.name for path in files.folder.iterdir()) == FETCHED
    assert (files.folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert find_cached("owner/name", None, tmp_path) == files
    total = sum(len(MODEL[name]) for name in FETCHED)
    assert seen[-1] == ("owner/name", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_the_token_goes_to_the_hub_and_never_to_the_content_network(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fetch(fake_hub, tmp_path, token="secret")
    assert {s.authorization for s in fake_hub.seen if not s.on_network} == {"Bearer secret"}
    assert {s.authorization for s in fake_hub.seen if s.on_network} == {None}


def test_all_files_come_from_one_commit_even_when_the_branch_moves(fake_hub: FakeHub, tmp_path: Path) -> None:
    first = fake_hub.add("owner/name", MODEL)
    fake_hub.fail("owner/name", "config.json", 503)  # while it is asked again, somebody pushes
    pinned = fetch(fake_hub, tmp_path / "a", revision=first)
    fake_hub.add("owner/name", MODEL | {"model.safetensors": b"new"})
    assert fetch(fake_hub, tmp_path / "b", revision=first).revision == pinned.revision == first
    assert not [seen.path for seen in fake_hub.seen if seen.path.endswith("main") or "/resolve/main/" in seen.path]
    assert (fetch(fake_hub, tmp_path / "c").folder / "model.safetensors").read_bytes() == b"new"


def test_templates_that_have_names_are_fetched_too(fake_hub: FakeHub, tmp_path: Path) -> None:
    named = "additional_chat_templates/tool_use.jinja"
    fake_hub.add("owner/name", MODEL | {named: b"T", "additional_chat_templates/x.py": b"import os"})
    files = fetch(fake_hub, tmp_path)
    assert (files.folder / named).read_bytes() == b"T"
    assert not (files.folder / "additional_chat_templates" / "x.py").exists()


def test_a_gguf_repository_gives_its_one_file_or_the_one_that_is_named(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", {"a.gguf": b"a", "README.md": b"r"})
    assert fetch(fake_hub, tmp_path).path.name == "a.gguf"
    fake_hub.add("owner/many", {"a.gguf": b"aa", "b.gguf": b"bb"})
    assert fetch(fake_hub, tmp_path, "owner/many/b.gguf").path.name == "b.gguf"
    for model_id in ("owner/many", "owner/many/c.gguf"):
        error = refusal(fake_hub, tmp_path, model_id)
        assert error.exit_code == 12
        assert (error.hint or "").endswith("a.gguf, b.gguf")


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"p"}, 16, "only pickled weights"),
        ({"README.md": b"r"}, 12, "holds no weights"),
        ({"config.json": b"{}", "model.safetensors": b"w"}, 18, "lacks a config.json or a tokenizer.json"),
        ({"../x.json": b"{}", "model.safetensors": b"w"}, 16, "outside its own folder"),
        ({"adapter_config.json": b'{"base_model_name_or_path": "a/b"}', "adapter_model.safetensors": b"w"}, 18, "base"),
    ],
)
def test_a_repository_that_cannot_be_served_is_refused(
    files: dict[str, bytes], code: int, words: str, fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.add("owner/name", files)
    error = refusal(fake_hub, tmp_path)
    assert error.exit_code == code
    assert words in error.message


def test_gated_private_absent_and_unknown_revisions_are_told_apart(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/gated", MODEL, gated=True, tokens=("good",))
    fake_hub.add("owner/private", MODEL, private=True, tokens=("good",))
    fake_hub.add("owner/name", MODEL)
    cases: list[tuple[str, str | None, str | None, int]] = [
        ("owner/gated", None, None, 13), ("owner/gated", "bad", None, 13), ("owner/private", None, None, 13),
        ("owner/absent", None, None, 13), ("owner/absent", "bad", None, 12), ("owner/private", "bad", None, 12),
        ("owner/name", None, "nowhere", 12), ("no//id", None, None, 12),
    ]  # fmt: skip
    for model_id, token, revision, code in cases:
        error = refusal(fake_hub, tmp_path, model_id, revision, token)
        assert (error.exit_code, bool(error.hint)) == (code, True), model_id
    for model_id in ("owner/gated", "owner/private"):
        assert fetch(fake_hub, tmp_path / "good", model_id, token="good").folder.exists()
        error = refusal(fake_hub, tmp_path, model_id)
        assert f"{fake_hub.endpoint}/{model_id}" in (error.hint or "")
        assert "HF_TOKEN" in (error.hint or "")
        assert "`hf auth login`" in (error.hint or "")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again_and_then_given_up(status: int, fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.fail("owner/name", "", status, times=2, Retry_After="1")
    fake_hub.fail("owner/name", "model.safetensors", status, times=2)
    assert fetch(fake_hub, tmp_path).folder.exists()
    fake_hub.fail("owner/name", "", status, times=99)
    error = refusal(fake_hub, tmp_path / "other")
    assert error.exit_code == 14
    assert str(status) in error.message


def test_a_hub_that_cannot_be_reached_is_a_network_error(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.close()
    error = refusal(fake_hub, tmp_path)
    assert error.exit_code == 14
    assert "the hub cannot be reached" in error.message


def test_offline_mode_is_said_at_once(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fake_hub.add("owner/name", MODEL)
    error = refusal(fake_hub, tmp_path)
    assert error.exit_code == 14
    assert "HF_HUB_OFFLINE" in error.message
    assert fake_hub.seen == []


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.add("owner/name", MODEL)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    error = refusal(fake_hub, tmp_path / "not" / "yet" / "there")
    assert error.exit_code == 15
    assert "100,027 bytes" in error.message
    assert "1,000 are free" in error.message
    assert not [seen for seen in fake_hub.seen if "/resolve/" in seen.path]


def test_a_branch_leads_to_a_model_only_when_all_of_it_is_there(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.corrupt["owner/name", "model.safetensors"] = b"v" * 100_000
    assert refusal(fake_hub, tmp_path).exit_code == 16
    assert find_cached("owner/name", None, tmp_path) is None
    assert not list(tmp_path.glob("models--*/refs/*"))


def test_pickles_are_fetched_only_when_asked_for(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", {"config.json": b"{}", "pytorch_model.bin": b"p", "tokenizer.json": b"{ }"})
    assert refusal(fake_hub, tmp_path).exit_code == 16
    files = fetch(fake_hub, tmp_path, convert=True)
    assert (files.folder / "pytorch_model.bin").read_bytes() == b"p"


def test_a_mirror_that_lists_names_alone_is_asked_for_each_file(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL | {"chat_template.jinja": b""})
    fake_hub.sizes = False
    fake_hub.cut("owner/name", "model.safetensors", 70_000)
    files = fetch(fake_hub, tmp_path)
    assert (files.folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert fake_hub.ranges("model.safetensors") == [None, "bytes=65536-"]
    fake_hub.corrupt["owner/name", "model.safetensors"] = b"v" * 100_000
    assert refusal(fake_hub, tmp_path / "other").exit_code == 16
