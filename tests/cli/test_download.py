"""`tgi download` prints the path, and only the path, or says why it cannot."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import FakeHub
from tgi.cli.main import main, server

MODEL = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"w" * 200_000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A flat folder with a model's one file."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path


@pytest.fixture
def hub(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub with one model, an empty cache, and a working directory of its own."""
    fake_hub.add("owner/name", MODEL)
    monkeypatch.setenv("HF_ENDPOINT", fake_hub.endpoint)
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    return fake_hub


def download(*arguments: str, program: object = main) -> int:
    with pytest.raises(SystemExit) as end:
        program(list(arguments))  # type: ignore[operator]
    return int(end.value.code or 0)


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_model_that_is_here_is_found_and_its_path_is_the_only_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download", str(folder)) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder / 'model.gguf'}\n"
    assert err.startswith("already present: ")


@pytest.mark.parametrize("name", ["download", "download-weights"])
def test_tgis_name_and_flags_do_the_same(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--extension", ".safetensors", "--no-auto-convert", "--logger-level", "INFO", "--json-output",
             "--no-merge-lora"]  # fmt: skip
    assert download(name, "m", "--weights-cache-override", str(folder), *flags) == 0
    assert capsys.readouterr().out == f"{folder / 'model.gguf'}\n"
    assert download("download-weights", str(folder), program=server) == 0


def test_the_model_can_come_from_the_environment_or_a_flag(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download("download", "--model-id", str(folder)) == 0
    monkeypatch.setenv("MODEL_ID", str(folder))
    assert download("download") == 0
    assert capsys.readouterr().out == f"{folder / 'model.gguf'}\n" * 2


def test_a_download_tells_its_steps_on_stderr_and_the_second_one_that_all_is_here(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download", "owner/name") == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert (path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert "3 files, 195 KiB to download" in err
    assert "verified model.safetensors" in err
    assert "done in " in err
    assert "\x1b" not in err + out
    assert download("download", "owner/name") == 0
    assert capsys.readouterr() == (out, "already present: owner/name, 3 files, 195 KiB\n")


def test_no_progress_leaves_the_result(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert download("download", "owner/name", "--no-progress") == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_events_are_one_object_a_line(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = hashlib.sha256(MODEL["model.safetensors"]).hexdigest()
    partial = tmp_path / "hub" / "models--owner--name" / "blobs" / f"{sha256}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(MODEL["model.safetensors"][:126_000])
    assert download("download", "owner/name", "--json") == 0
    told = events(capsys)
    plan, done = told[0], told[-1]
    assert (plan["event"], plan["download_bytes"], plan["dry_run"]) == ("plan", plan["total_bytes"] - 126_000, False)
    resumed = {"event": "resumed", "path": "model.safetensors", "done_bytes": 126_000, "total_bytes": 200_000,
               "percent": 63}  # fmt: skip
    assert resumed in told
    assert {"event": "verified", "path": "model.safetensors", "size": 200_000, "sha256": sha256} in told
    last = [event for event in told if event["event"] == "progress"][-1]
    assert last["done_bytes"] == last["total_bytes"] == 200_000
    assert last["model_done_bytes"] == last["model_total_bytes"] == plan["total_bytes"]
    assert (done["event"], done["num_files"], done["commit"]) == ("done", 3, plan["commit"])
    assert download("download", "owner/name", "--json") == 0
    (present,) = events(capsys)
    assert (present["event"], present["path"]) == ("present", done["path"])


def test_a_failure_is_an_event_too(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("owner/gated", MODEL, gated=True)
    assert download("download", "owner/gated", "--json") == 13
    out, err = capsys.readouterr()
    event = json.loads(out.splitlines()[-1])
    assert (event["event"], event["exit_code"]) == ("error", 13)
    assert f"{hub.endpoint}/owner/gated" in event["hint"]
    assert len(err.splitlines()) == 2


def test_a_dry_run_lists_sizes_and_fetches_nothing(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download", "owner/name", "--dry-run") == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["2", "B", "to", "download", "config.json"], ["3", "B", "to", "download", "tokenizer.json"],
        ["195", "KiB", "to", "download", "model.safetensors"],
        ["195", "KiB", "in", "3", "files,", "195", "KiB", "to", "download"],
    ]  # fmt: skip
    assert not (tmp_path / "hub").exists()
    assert download("download", "owner/name", "--dry-run", "--json") == 0
    (plan,) = events(capsys)
    assert (plan["dry_run"], [file["size"] for file in plan["files"]]) == (True, [2, 3, 200_000])


def test_a_locked_model_is_the_same_or_refused(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download", "owner/name", "--lock") == 0
    path = Path(capsys.readouterr().out.strip())
    hub.add("owner/name", MODEL | {"config.json": b'{"new": 1}'})
    assert download("download", "owner/name", "--locked") == 0
    assert download("download", "owner/name", "--locked", "--revision", "v9") == 16
    weights = (path / "model.safetensors").resolve()
    weights.write_bytes(b"v" * 200_000)
    capsys.readouterr()
    assert download("download", "owner/name", "--locked") == 16
    err = capsys.readouterr().err
    for sha256 in (hashlib.sha256(letter * 200_000).hexdigest() for letter in (b"v", b"w")):
        assert sha256 in err
    assert "`model.safetensors`" in err
    assert download("download", "owner/name", "--locked", "--lock") == 1


def test_a_new_machine_gets_the_locked_commit(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download("download", "owner/name", "--lock", "--lock-file", str(tmp_path / "my.lock")) == 0
    first = Path(capsys.readouterr().out.strip()).name
    hub.add("owner/name", MODEL | {"config.json": b'{"new": 1}'})
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("TGI_LOCK_FILE", str(tmp_path / "my.lock"))
    assert download("download", "owner/name", "--locked") == 0
    assert Path(capsys.readouterr().out.strip()).name == first


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({"HF_TOKEN": "a", "HUGGING_FACE_HUB_TOKEN": "b", "HF_API_TOKEN": "c"}, "a"),
        ({"HUGGING_FACE_HUB_TOKEN": "b", "HF_API_TOKEN": "c"}, "b"),
        ({"HF_API_TOKEN": "c"}, "c"),
    ],
)
def test_the_token_comes_from_the_first_variable_that_is_set(
    variables: dict[str, str], token: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hub.add("owner/private", MODEL, private=True, tokens=(token,))
    assert download("download", "owner/private") == 0
    assert {seen.authorization for seen in hub.seen if not seen.on_network} == {f"Bearer {token}"}


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["./missing"], 12, "`./missing`"),
        (["m", "--weights-cache-override", "/missing"], 12, "/missing"),
        (["m", "--extension", ".bin"], 1, "`--extension .bin`"),
        (["m", "--model-id", "n"], 1, "two models"),
        (["m@v1", "--revision", "v2"], 1, "two revisions"),
        (["owner/nmae"], 13, "did you mean `owner/name`"),
        (["owner/name", "--revision", "v2"], 12, "`v2`"),
        (["owner/name", "--locked"], 1, "`tgi.lock`"),
        (["m", "n"], 2, "`n`"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_next_step(
    arguments: list[str], code: int, shown: str, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download", "owner/name") == 0
    capsys.readouterr()
    assert download("download-weights", *arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert shown in err
    assert "hint: " in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2


def test_a_flag_without_effect_is_taken_with_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download("download", str(folder), "--trust-remote-code") == 0
    assert capsys.readouterr().err.startswith("warning: `--trust-remote-code` changes nothing: ")
