"""Each examination finds what is wrong, and says what to do."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from tgi.cli import checkup
from tgi.cli.checkup import FAIL, OK, WARN, masked
from tgi.config import Config, Http, Model
from tgi.errors import TgiError


def test_a_busy_port_would_stop_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = checkup._port(Config(http=Http(hostname="127.0.0.1", port=port)))
    assert finding.status == FAIL
    assert str(port) in finding.found
    assert finding.hint


@pytest.mark.parametrize(("available", "status"), [(100 << 20, FAIL), (600 << 20, WARN), (8 << 30, OK)])
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    memory = SimpleNamespace(available=available, total=16 << 30)
    monkeypatch.setattr(checkup.psutil, "virtual_memory", lambda: memory)
    assert checkup._memory().status == status


def test_the_processors_extensions_are_listed(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t: fpu avx2 fma avx512_vnni\n")
    assert checkup._processor(tmp_path / "cpuinfo").found.endswith(": avx2 fma avx512_vnni")


def test_a_hub_that_does_not_answer_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.constants, "HF_HUB_OFFLINE", False)

    def refuse(endpoint: str) -> None:
        raise OSError("no route")

    assert checkup._network(refuse).status == WARN
    assert checkup._network(lambda endpoint: None).status == OK
    monkeypatch.setattr(checkup.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in checkup._network(refuse).found


def test_a_missing_model_stops_a_server_only_where_it_cannot_be_fetched(tmp_path: Path) -> None:
    config = Config(model=Model(model_id="owner/none", huggingface_hub_cache=tmp_path))
    assert checkup._model(config, reachable=True).status == OK
    assert checkup._model(config, reachable=False).status == FAIL


def test_a_full_disk_and_a_missing_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    assert checkup._cache(Config(model=Model(huggingface_hub_cache=tmp_path))).status == WARN
    monkeypatch.setattr(checkup, "version", lambda name: "not installed" if name == "msgspec" else "1")
    assert checkup._packages().found == "not installed: msgspec"


@pytest.mark.parametrize(("secret", "shown"), [("hf_abcdefghijklmnop", "hf_***"), ("short", "***")])
def test_secrets_are_masked(secret: str, shown: str) -> None:
    assert masked(secret) == shown


@pytest.mark.parametrize(
    ("kernels", "status"), [("avx2", OK), ("avx512", OK), ("avx512_bf16", OK), ("portable", WARN), ("torch", WARN)]
)
def test_slow_kernels_are_a_warning(monkeypatch: pytest.MonkeyPatch, kernels: str, status: str) -> None:
    monkeypatch.setattr(checkup, "call_aside", lambda name: {"kernels": kernels, "threads": 2, "library": None})
    assert checkup._kernels().status == status


def test_kernels_that_cannot_be_loaded_stop_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise TgiError("torch is broken")

    monkeypatch.setattr(checkup, "call_aside", fail)
    assert checkup._kernels().status == FAIL
