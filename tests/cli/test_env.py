"""`tgi env` shows the report, for people and for machines."""

from __future__ import annotations

import json

import pytest

from tgi import __version__
from tgi.cli import main as cli


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["env", *arguments])
    assert not end.value.code
    return capsys.readouterr().out


def test_the_report_has_a_line_a_fact(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split(maxsplit=1) for line in report(capsys).splitlines()]
    assert ["tgi", __version__] in lines
    assert "torch" in dict(lines)


def test_the_report_for_machines_is_one_object_and_tells_of_the_driver(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGI_CUDA_DRIVER", "off")
    facts = json.loads(report(capsys, "--json"))
    assert facts["tgi"] == __version__
    assert facts["gpu driver"] == "not searched: TGI_CUDA_DRIVER=off"
