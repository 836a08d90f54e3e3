"""`tgi cache`: what people and programs see, and that nothing goes without being asked for."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import FakeHub
from tgi.cli.main import main

MODEL = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"w" * 2_000_000}


@pytest.fixture(autouse=True)
def cache(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Path:
    """A cache with one model."""
    monkeypatch.setenv("HF_ENDPOINT", fake_hub.endpoint)
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    fake_hub.add("owner/name", MODEL)
    assert run("download", "owner/name", "--no-progress") == 0
    capsys.readouterr()
    return tmp_path / "hub"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def weights(cache: Path) -> Path:
    return next(cache.glob("models--*/snapshots/*/model.safetensors")).resolve()


def test_a_listing_shows_size_revision_last_use_and_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MODEL", "REVISION", "SIZE", "LAST", "USE", "STATE"]
    assert lines[1].startswith("owner/name  main (")
    assert "2 MiB" in lines[1]
    assert lines[1].endswith("now       complete")
    assert lines[2] == "1 revision, 2 MiB"


def test_a_listing_for_programs_is_one_object(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", "ls", "--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert (listing["cache"], listing["total_bytes"]) == (str(cache), 2_000_005)
    (model,) = listing["models"]
    assert model.keys() == {"model_id", "source", "revision", "refs", "size", "num_files", "last_used", "path", "state"}
    assert (model["model_id"], model["refs"], model["size"]) == ("owner/name", ["main"], 2_000_005)


def test_an_empty_cache_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", "ls", "--huggingface-hub-cache", str(cache / "none")) == 0
    assert capsys.readouterr() == ("", f"no models in {cache / 'none'}\n")


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_nothing_goes_without_a_yes(
    answer: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert run("cache", "rm", "owner/name") == 1
    assert "nothing was removed" in capsys.readouterr().err
    assert weights(cache).exists()


@pytest.mark.parametrize("name", ["owner/name", "owner/name@main"])
def test_a_yes_or_the_flag_removes_it(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run("cache", "rm", name) == 0
    assert capsys.readouterr().out == "removed 1 revision, 2 MiB freed\n"
    assert not list(cache.glob("models--*"))


def test_a_program_is_told_what_went(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", "rm", "owner/name", "--yes", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["freed_bytes"], answer["removed"][0]["model_id"]) == (2_000_005, "owner/name")


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["rm", "owner/nmae"], 12, "did you mean `owner/name`?"),
        (["rm", "owner/name@v9"], 12, "no revision `v9`"),
        (["rm"], 2, "MODEL"),
        (["verify", "x/y"], 12, "`x/y` is not in the cache"),
        (["lst"], 2, "did you mean `ls`?"),
    ],
)
def test_a_mistake_is_answered_with_a_next_step(
    arguments: list[str], code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cache", *arguments) == code
    err = capsys.readouterr().err
    assert shown in err
    assert "hint: " in err


def test_good_files_are_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", "verify") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "3 files checked, 0 bad"
    assert err == ""


def test_a_bad_file_is_named_with_its_repair(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(cache).write_bytes(b"v" * 2_000_000)
    assert run("cache", "verify", "owner/name") == 16
    out, err = capsys.readouterr()
    assert f"expected {weights(cache).name}" in out
    assert "`model.safetensors` of `owner/name`" in err
    assert "`tgi cache rm owner/name`, then `tgi download owner/name`" in err
    assert run("cache", "verify", "--json") == 16
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["path"]: event["status"] for event in told if event["event"] == "file"} == {
        "config.json": "ok", "model.safetensors": "corrupt", "tokenizer.json": "ok"
    }  # fmt: skip
    assert told[-1] == {"event": "done", "checked": 3, "bad": 1}


@pytest.mark.parametrize("arguments", [[], ["ls"], ["rm"], ["verify"]])
def test_help_fits_and_shows_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cache", *arguments, "--help") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "Examples:" in out
