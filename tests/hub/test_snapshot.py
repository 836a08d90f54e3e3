"""Downloads from a hub on loopback, through the hub's own library: what is fetched, and what faults become."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tgi.errors import ModelError
from tgi.hub import snapshot
from tgi.hub.files import ModelFiles, find_cached

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class FakeHub:
    """Serves `repositories` {id: {file: content}}; an id in `gated` answers as a gated repository does."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.fetched: list[str] = []
        self.tokens: set[str | None] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                hub.tokens.add(self.headers.get("Authorization"))
                status, headers, content = hub.answer(self.path.partition("?")[0], body)
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        return Handler

    def answer(self, path: str, body: bool) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path of the hub's interface."""
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_api else parts[:2])
        files = self.repositories.get(repository)
        if files is None:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b"{}"
        if is_api:
            if parts[4:5] == ["revision"] and parts[5] not in ("main", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            return 200, {"Content-Type": "application/json"}, self._listing(repository, files, "tree" in parts)
        name = "/".join(parts[4:])
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if body:
            self.fetched.append(name)
        return 200, {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}, files[name]

    def _listing(self, repository: str, files: dict[str, bytes], tree: bool) -> bytes:
        oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
        if tree:
            rows = [{"type": "file", "path": name, "size": len(files[name]), "oid": oids[name]} for name in files]
            return json.dumps(rows).encode()
        siblings = [{"rfilename": name, "size": len(files[name]), "blobId": oids[name]} for name in files]
        return json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings, "private": False}).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FakeHub()
    yield server
    server.close()


def fetch(hub: FakeHub, cache: Path, model_id: str = "owner/name", revision: str | None = None,
          token: str | None = None, seen: list[Any] | None = None) -> ModelFiles:  # fmt: skip
    def progress(what: str, done_bytes: int, total_bytes: int | None) -> None:
        if seen is not None:
            seen.append((what, done_bytes, total_bytes))

    return snapshot.download(model_id, revision, cache, token=token, endpoint=hub.endpoint, progress=progress)


MODEL = {
    "config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": b"w" * 100_000, "README.md": b"r",
    "pytorch_model.bin": b"p", "consolidated.safetensors": b"c", "onnx/model.onnx": b"o", "modeling_x.py": b"import os",
    "chat_template.jinja": b"{{ messages }}", "generation_config.json": b"{ }",
}  # fmt: skip
FETCHED = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]


def test_only_weights_configuration_and_tokenizer_are_fetched_and_then_cached(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["owner/name"] = MODEL
    seen: list[Any] = []
    files = fetch(hub, tmp_path, seen=seen, token="secret")
    assert sorted(hub.fetched) == FETCHED
    assert (files.model_id, files.revision) == ("owner/name", COMMIT)
    assert sorted(path.name for path in files.folder.iterdir()) == FETCHED
    assert (files.folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert find_cached("owner/name", None, tmp_path) == files
    total = sum(len(MODEL[name]) for name in FETCHED)
    assert seen[-1] == ("owner/name", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert hub.tokens == {"Bearer secret"}


def test_templates_that_have_names_are_fetched_too(hub: FakeHub, tmp_path: Path) -> None:
    named = "additional_chat_templates/tool_use.jinja"
    hub.repositories["owner/name"] = MODEL | {named: b"T", "additional_chat_templates/x.py": b"import os"}
    files = fetch(hub, tmp_path)
    assert sorted(hub.fetched) == sorted([*FETCHED, named])
    assert (files.folder / named).read_bytes() == b"T"


def test_shards_are_fetched_with_their_index(hub: FakeHub, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    hub.repositories["owner/name"] = {
        "config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2",
    }  # fmt: skip
    assert len(list(fetch(hub, tmp_path).folder.iterdir())) == 5


def test_a_gguf_repository_gives_its_one_file_or_the_one_that_is_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["owner/name"] = {"a.gguf": b"a", "README.md": b"r"}
    assert fetch(hub, tmp_path).path.name == "a.gguf"
    assert hub.fetched == ["a.gguf"]
    hub.repositories["owner/many"] = {"a.gguf": b"aa", "b.gguf": b"bb"}
    assert fetch(hub, tmp_path, "owner/many/b.gguf").path.name == "b.gguf"
    for model_id in ("owner/many", "owner/many/c.gguf"):
        with pytest.raises(ModelError) as refusal:
            fetch(hub, tmp_path, model_id)
        assert refusal.value.exit_code == 12
        assert refusal.value.hint is not None
        assert refusal.value.hint.endswith("a.gguf, b.gguf")


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"p"}, 16, "only pickled weights"),
        ({"README.md": b"r"}, 12, "holds no weights"),
        ({"config.json": b"{}", "model.safetensors": b"w"}, 18, "lacks a config.json or a tokenizer.json"),
    ],
)
def test_a_repository_that_cannot_be_served_is_refused(
    files: dict[str, bytes], code: int, words: str, hub: FakeHub, tmp_path: Path
) -> None:
    hub.repositories["owner/name"] = files
    with pytest.raises(ModelError, match=words) as refusal:
        fetch(hub, tmp_path)
    assert refusal.value.exit_code == code


def test_absent_and_gated_models_are_told_apart(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories |= {"owner/gated": MODEL, "owner/name": MODEL}
    hub.gated.add("owner/gated")
    for model_id, revision, code in (
        ("owner/absent", None, 12), ("owner/name", "nowhere", 12), ("no//id", None, 12), ("owner/gated", None, 13),
    ):  # fmt: skip
        with pytest.raises(ModelError) as refusal:
            fetch(hub, tmp_path, model_id, revision)
        assert (refusal.value.exit_code, "HF_TOKEN" in (refusal.value.hint or "")) == (code, True)


def test_a_hub_that_cannot_be_reached_is_a_network_error(hub: FakeHub, tmp_path: Path) -> None:
    hub.close()
    with pytest.raises(ModelError, match="the hub cannot be reached") as refusal:
        fetch(hub, tmp_path)
    assert refusal.value.exit_code == 14


def test_offline_mode_is_a_network_error_at_once(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.repositories["owner/name"] = MODEL
    with pytest.raises(ModelError) as refusal:
        fetch(hub, tmp_path)
    assert refusal.value.exit_code == 14
    assert hub.fetched == []


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["owner/name"] = MODEL
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match="no room left") as refusal:
        fetch(hub, tmp_path / "not" / "yet" / "there")
    assert refusal.value.exit_code == 15
    assert hub.fetched == []
