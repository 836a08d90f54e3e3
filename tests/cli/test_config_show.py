"""Every setting with its value and its source; no secret is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgi.cli.main import main
from tgi.cli.options import Setting, all_options


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["config", "show", *arguments])
    assert not end.value.code
    return capsys.readouterr().out


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(show(capsys, *arguments, "--json"))
    return found


def test_value_and_source_of_a_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tgi.toml").write_text("max-best-of = 7\nport = 1\n")
    monkeypatch.setenv("PORT", "81")
    found = shown(capsys, "--max-total-tokens", "9")
    assert found["max-total-tokens"] == {"value": 9, "source": "flag", "variable": "MAX_TOTAL_TOKENS"}
    assert found["port"] == {"value": 81, "source": "environment", "variable": "PORT"}
    assert found["max-best-of"] == {"value": 7, "source": "file", "variable": "MAX_BEST_OF", "file": "tgi.toml"}
    assert found["max-client-batch-size"] == {"value": 4, "source": "default", "variable": "MAX_CLIENT_BATCH_SIZE"}


def test_every_setting_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {o.opts[0].lstrip("-") for o in all_options() if isinstance(o, Setting) and not o.hidden}
    assert set(shown(capsys)) == wanted


def test_a_setting_under_its_old_name_is_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--max-input-length", "5")["max-input-tokens"]["value"] == 5


def test_secrets_are_masked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "very-secret")
    assert "very-secret" not in show(capsys) + json.dumps(shown(capsys))
    assert shown(capsys)["api-key"]["value"] == "***"


def test_the_table_is_plain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "81")
    lines = [line.split() for line in show(capsys).splitlines()]
    assert ["port", "81", "environment", "PORT"] in lines
    assert ["model-id", "-", "default"] in lines
    assert ["json-output", "off", "default"] in lines


def test_contradictions_are_shown_and_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--max-input-tokens", "9", "--max-total-tokens", "9")["max-input-tokens"]["value"] == 9
