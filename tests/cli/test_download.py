"""`tgi download` prints the path, and only the path, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi.cli.main import main, server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A flat folder with a model's one file."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path


def download(*arguments: str, program: object = main) -> int:
    with pytest.raises(SystemExit) as end:
        program(list(arguments))  # type: ignore[operator]
    return int(end.value.code or 0)


def test_a_model_that_is_here_is_found_and_its_path_is_the_only_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download", str(folder)) == 0
    assert capsys.readouterr() == (f"{folder / 'model.gguf'}\n", "")


def test_tgis_name_and_flags_do_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--extension", ".safetensors", "--no-auto-convert", "--logger-level", "INFO"]
    assert download("download-weights", "m", "--weights-cache-override", str(folder), *flags, program=server) == 0
    assert capsys.readouterr().out == f"{folder / 'model.gguf'}\n"


def test_the_model_can_come_from_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ID", str(folder))
    assert download("download") == 0
    assert capsys.readouterr().out == f"{folder / 'model.gguf'}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["./missing"], 12, "`./missing`"),
        (["m", "--weights-cache-override", "/missing"], 12, "/missing"),
        (["m", "--extension", ".bin"], 1, "`--extension .bin`"),
        (["m", "--merge-lora"], 1, "`--merge-lora`"),
        (["m", "n"], 2, "`n`"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_next_step(
    arguments: list[str], code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("download-weights", *arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert shown in err
    assert "hint: " in err
    assert "Traceback" not in err


def test_a_flag_without_effect_is_taken_with_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download("download", str(folder), "--trust-remote-code") == 0
    assert capsys.readouterr().err.startswith("warning: `--trust-remote-code` changes nothing: ")
