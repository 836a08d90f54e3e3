"""A server of our own to measure, without one: what is passed on and what is told when it fails."""

from __future__ import annotations

from pathlib import Path

from tgi.cli.bench_server import _failure, _free_port


def test_a_server_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("tgi 4.0.0\nerror: `x` does not exist\nhint: check the path\n")
    failed = _failure(log)
    assert failed.message == "`tgi serve` did not start: `x` does not exist"
    assert failed.hint == "check the path"
    log.write_text("one\ntwo\nKilled\nat last\n")
    assert "two / Killed / at last" in _failure(log).message
    log.write_text("")
    assert "it said nothing" in _failure(log).message


def test_ports_are_free_ones() -> None:
    assert 1024 <= _free_port() <= 65535
