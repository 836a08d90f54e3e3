"""The caches listed, thinned out and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_hub import FakeHub
from tgi.hub import snapshot
from tgi.hub.cache import CachedModel, Finding, remove, scan, verify
from tgi.hub.digests import Digests, sha256_of
from tgi.hub.download import DEFAULT_MODEL_ID, HubSettings
from tgi.hub.watch import Watcher
from tgi.hub.wheel import WheelModel

MODEL = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"w" * 5000}


class Caches:
    """Both caches, in a temporary folder."""

    def __init__(self, hub: FakeHub, folder: Path) -> None:
        self.hub = hub
        self.cache = folder / "hub"
        wheel = WheelModel("Tiny", "tiny==1", "tiny/model.gguf", "0" * 64, 4)
        self.settings = HubSettings(model_cache=folder / "own" / "models", default_wheel=wheel)

    def fetch(self, model_id: str, revision: str | None = None) -> Path:
        return snapshot.download(model_id, revision, self.cache, token=None, endpoint=self.hub.endpoint,
                                 progress=Watcher(), digests=self.settings.digests).folder  # fmt: skip

    def scan(self) -> list[CachedModel]:
        return scan(self.cache, self.settings)

    def verify(self) -> list[Finding]:
        digests = self.settings.digests
        return [one for model in self.scan() for one in verify(model, self.settings, Watcher(), digests)]


@pytest.fixture
def caches(fake_hub: FakeHub, tmp_path: Path) -> Caches:
    return Caches(fake_hub, tmp_path)


def test_no_cache_is_an_empty_one(caches: Caches) -> None:
    assert caches.scan() == []


def test_revisions_are_listed_with_size_names_and_state(caches: Caches) -> None:
    one = caches.hub.add("a/b", MODEL)
    two = caches.hub.add("a/b", MODEL | {"config.json": b"{  }"}, branch="v2")
    caches.fetch("a/b")
    caches.fetch("a/b", "v2")
    own = caches.settings.default_wheel.path(caches.settings.model_cache)
    own.parent.mkdir(parents=True)
    own.write_bytes(b"GGUF")
    found = {(model.model_id, model.revision): model for model in caches.scan()}
    assert found.keys() == {("a/b", one), ("a/b", two), (DEFAULT_MODEL_ID, None)}
    assert (found["a/b", one].refs, found["a/b", two].refs) == (("main",), ("v2",))
    assert found["a/b", one].size == sum(map(len, MODEL.values()))
    assert (found["a/b", one].num_files, found["a/b", one].state) == (3, "complete")
    assert found[DEFAULT_MODEL_ID, None].source == "tgi"
    assert all(model.last_used for model in found.values())


def test_a_download_that_has_only_begun_is_listed_and_can_be_removed(caches: Caches) -> None:
    blob = caches.cache / "models--a--b" / "blobs" / "x.incomplete"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 100)
    (model,) = caches.scan()
    assert (model.model_id, model.state, model.size) == ("a/b", "incomplete", 100)
    assert remove([model], caches.cache) == 100
    assert caches.scan() == []


def test_a_revision_goes_and_files_that_others_need_stay(caches: Caches) -> None:
    caches.hub.add("a/b", MODEL)
    caches.hub.add("a/b", MODEL | {"config.json": b"{  }"}, branch="v2")
    kept = caches.fetch("a/b")
    caches.fetch("a/b", "v2")
    (doomed,) = (model for model in caches.scan() if model.refs == ("v2",))
    assert remove([doomed], caches.cache) == 4
    assert [model.refs for model in caches.scan()] == [("main",)]
    assert (kept / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    remove(caches.scan(), caches.cache)
    assert not list(caches.cache.glob("models--*"))


def test_files_that_are_as_promised_are_ok(caches: Caches) -> None:
    caches.hub.add("a/b", MODEL)
    folder = caches.fetch("a/b")
    (folder / "made.json").write_text("x")
    assert {one.name: one.status for one in caches.verify()} == {
        "config.json": "ok", "tokenizer.json": "ok", "model.safetensors": "ok", "made.json": "unchecked",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(MODEL))
def test_a_bit_that_flipped_is_found(name: str, caches: Caches) -> None:
    caches.hub.add("a/b", MODEL)
    path = (caches.fetch("a/b") / name).resolve()
    path.write_bytes(bytes([MODEL[name][0] ^ 1]) + MODEL[name][1:])
    (bad,) = (one for one in caches.verify() if one.status != "ok")
    assert (bad.name, bad.status, bad.expected) == (name, "corrupt", path.name)
    assert bad.found not in (None, bad.expected)


def test_a_file_that_is_gone_is_missing(caches: Caches) -> None:
    caches.hub.add("a/b", MODEL)
    (caches.fetch("a/b") / "model.safetensors").resolve().unlink()
    assert [one.name for one in caches.verify() if one.status == "missing"] == ["model.safetensors"]


def test_our_own_copy_is_compared_with_its_pin(caches: Caches) -> None:
    own = caches.settings.default_wheel.path(caches.settings.model_cache)
    own.parent.mkdir(parents=True)
    own.write_bytes(b"GGUF")
    (bad,) = caches.verify()
    assert (bad.status, bad.expected, bad.found) == ("corrupt", "0" * 64, sha256_of(own))
    assert Digests(caches.settings.model_cache.parent).get(own) is None
