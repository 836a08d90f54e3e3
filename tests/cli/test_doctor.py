"""`tgi doctor` tells every finding, and ends with 1 when one would stop a server."""

from __future__ import annotations

import json

import pytest

from tgi.cli import checkup
from tgi.cli.checkup import FAIL, OK, WARN, Finding
from tgi.cli.main import main

FINDINGS = [
    Finding("port", OK, "free", "never shown"),
    Finding("memory", WARN, "little", "end others"),
    Finding("model", FAIL, "missing", "fetch it"),
]


def doctor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(checkup, "examine", lambda config: iter(findings))
    with pytest.raises(SystemExit) as end:
        main(["doctor", *arguments])
    return int(end.value.code or 0), capsys.readouterr().out


def test_what_would_stop_a_server_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = doctor(capsys, monkeypatch, FINDINGS)
    assert code == 1
    assert out.splitlines() == [
        "ok    port       free",
        "warn  memory     little",
        "                 end others",
        "FAIL  model      missing",
        "                 fetch it",
        "this would stop `tgi serve`: model",
    ]


def test_warnings_do_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out = doctor(capsys, monkeypatch, FINDINGS[:2])
    assert code == 0
    assert out.endswith("nothing would stop `tgi serve`\n")


def test_the_findings_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out = doctor(capsys, monkeypatch, FINDINGS, "--json")
    answer = json.loads(out)
    assert (code, answer["ok"]) == (1, False)
    assert answer["checks"][2] == {"name": "model", "status": "FAIL", "found": "missing", "hint": "fetch it"}


def test_this_machine_is_examined_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setattr(checkup, "_ask", lambda endpoint: None)
    with pytest.raises(SystemExit):
        main(["doctor", "--port", "0", "--json"])
    out = capsys.readouterr().out
    names = [check["name"] for check in json.loads(out)["checks"]]
    assert names == ["versions", "packages", "processor", "memory", "open files", "port", "network", "token", "cache",
                     "model", "kernels"]  # fmt: skip
    assert "abcdefghijklmnop" not in out
