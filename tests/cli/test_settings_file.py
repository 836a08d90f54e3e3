"""tgi.toml: below the environment, above the defaults; what cannot be meant is refused by name and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tgi.cli.main import main
from tgi.cli.options import SettingsCommand, all_options, read_config
from tgi.cli.settings_file import places
from tgi.config import Config


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an empty configuration folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "tgi").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def read(*arguments: str) -> Config:
    command = SettingsCommand("serve", params=list(all_options()))
    with command.make_context("serve", list(arguments)) as context:
        return read_config(context)[0]


def test_a_file_ranks_below_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tgi.toml").write_text('port = 1\nmax_best_of = 7\nmodel-id = "file"\njson-output = true\n')
    monkeypatch.setenv("MODEL_ID", "environment")
    config = read("--port", "3")
    assert (config.http.port, config.limits.max_best_of, config.model.model_id) == (3, 7, "environment")
    assert config.telemetry.json_output
    assert read().http.port == 1


def test_the_current_folder_wins_over_the_users_configuration(folders: Path) -> None:
    assert [str(place) for place in places()] == ["tgi.toml", str(folders / "config" / "tgi" / "tgi.toml")]
    places()[1].write_text("port = 1\nmax-best-of = 7\n")
    Path("tgi.toml").write_text("port = 2\n")
    assert (read().http.port, read().limits.max_best_of) == (2, 7)


def test_lists_and_one_value_of_a_repeatable_setting() -> None:
    Path("tgi.toml").write_text('cors-allow-origin = ["a", "b"]\n')
    assert read().http.cors_allow_origin == ("a", "b")
    Path("tgi.toml").write_text('cors-allow-origin = "a"\n')
    assert read().http.cors_allow_origin == ("a",)


@pytest.mark.parametrize(
    ("text", "code", "shown"),
    [
        ("prot = 1", 10, ["`prot`", "`tgi.toml`", "did you mean `port`?"]),
        ("a = 1\nb = = 2", 10, ["`tgi.toml` is no TOML", "line 2"]),
        ("[serve]\nport = 1", 10, ["`serve`", "see `tgi serve --help`"]),
        ("port = [1, 2]", 10, ["`port` must be one value", "[1, 2]"]),
        ('port = "http"', 2, ["`http`", "`port` is set in tgi.toml"]),
        ("max-total-tokens = 4\nmax-input-tokens = 5", 1, ["5 and 4"]),
    ],
)
def test_a_mistake_is_named(capsys: pytest.CaptureFixture[str], text: str, code: int, shown: list[str]) -> None:
    Path("tgi.toml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["serve"])
    error = capsys.readouterr().err
    assert end.value.code == code
    assert all(word in error for word in shown), error


def test_help_is_shown_whatever_the_file_says(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tgi.toml").write_text("= nonsense")
    with pytest.raises(SystemExit) as end:
        main(["serve", "--help"])
    assert not end.value.code
    assert "Usage:" in capsys.readouterr().out


def test_a_file_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tgi.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit) as end:
        main(["serve"])
    assert end.value.code == 10
    assert "not in UTF-8" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tgi.toml").write_text("port = 1")
    Path("tgi.toml").chmod(0)
    with pytest.raises(SystemExit) as end:
        main(["serve"])
    assert end.value.code == 10
