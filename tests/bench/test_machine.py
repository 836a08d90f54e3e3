"""This machine's description and limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi.bench import machine
from tgi.bench.results import MachineRoof

ROOF = MachineRoof(bandwidth=1e9, float32_rate=2e9, integer_rate=None, measured_at="2026-11-22T00:00:00Z")


def test_the_machine_is_described() -> None:
    found = machine.describe(serves=True)
    assert found.cpu
    assert found.cores >= 1
    assert found.memory_bytes > 2**28


@pytest.mark.parametrize("url", ["http://127.0.0.1:3000", "http://localhost:1", "http://[::1]:3000"])
def test_loopback_is_here(url: str) -> None:
    assert machine.is_here(url)


@pytest.mark.parametrize("url", ["http://192.0.2.1:3000", "http://name.invalid"])
def test_other_addresses_are_elsewhere(url: str) -> None:
    assert not machine.is_here(url)


def test_the_limits_are_measured() -> None:
    memory, caches = machine._bandwidths(total=8 << 20, rounds=1)
    assert memory > 1e8
    assert [size for size, _ in caches] == sorted(size for size, _ in caches)
    rates = [rate for _, rate in caches]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= memory
    assert machine._matrix_rate(size=128, rounds=1) > 1e7


def test_the_limits_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(machine, "measure_roof", lambda: measured.append(1) or ROOF)
    monkeypatch.setattr(machine, "_busy", lambda: 0.0)
    assert machine.roof(tmp_path) == machine.roof(tmp_path) == (ROOF, None)
    assert len(measured) == 1
    machine.roof(tmp_path, again=True)
    assert len(measured) == 2
    next(tmp_path.rglob("roof-*.json")).write_text("damaged")
    assert machine.roof(tmp_path) == (ROOF, None)


def test_limits_of_a_busy_machine_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure_roof", lambda: ROOF)
    monkeypatch.setattr(machine, "_busy", lambda: 0.9)
    found, note = machine.roof(tmp_path)
    assert found == ROOF
    assert note is not None
    assert "90% busy" in note
    assert not list(tmp_path.rglob("*.json"))
