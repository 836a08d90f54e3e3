"""A download is watched as a bar on a terminal, and as few plain lines elsewhere."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from tgi.cli import progress as shown
from tgi.cli.progress import Events, download_progress, size
from tgi.hub.selection import Plan, PlannedFile
from tgi.hub.watch import Watcher


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (98_362_432, "94 MiB"), (3 * 2**30, "3.0 GiB"), (2**42, "4096.0 GiB")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_a_pipe_gets_a_first_and_a_last_line_and_no_control_characters() -> None:
    stream = io.StringIO()
    with download_progress(Console(file=stream)) as progress:
        for done in (0, 2**20, 2**21, 2**22, 2**22):
            progress("model", done, 2**22)
    assert stream.getvalue().splitlines() == [
        "downloading model: 0 B of 4 MiB (0 %)",
        "downloading model: 4 MiB of 4 MiB (100 %)",
    ]


def test_a_pipe_gets_a_line_every_other_second(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    with download_progress(Console(file=stream)) as progress:
        for second in range(5):
            now[0] = float(second)
            progress("model", second * 2**20, None)
    assert stream.getvalue().splitlines() == [f"downloading model: {n}" for n in ("0 B", "2 MiB", "4 MiB")]


def test_a_terminal_gets_a_bar_with_the_name() -> None:
    stream = io.StringIO()
    with download_progress(Console(file=stream, force_terminal=True, width=80)) as progress:
        progress("model", 0, 100)
        progress("model", 100, 100)
    assert "model" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_nothing_is_shown_where_nothing_is_downloaded_or_nobody_watches() -> None:
    stream = io.StringIO()
    for terminal in (True, False):
        with download_progress(Console(file=stream, force_terminal=terminal)):
            pass
    with download_progress(Console(file=stream), draw=False) as progress:
        progress("model", 1, 2)
    assert stream.getvalue() == ""


PLAN = Plan("owner/name", "owner/name", "main", "c" * 40, (PlannedFile("a.json", 5, 5), PlannedFile("w", 2**22, 2**21)))
WEIGHTS = PLAN.files[1]


def act(watcher: Watcher) -> None:
    """A download that goes on where another one ended."""
    watcher.planned(PLAN)
    watcher.resumed(WEIGHTS, 2**21)
    watcher.retrying(WEIGHTS, "cut [here]")
    watcher.advanced(WEIGHTS, 3 * 2**20)
    watcher.advanced(WEIGHTS, 2**22)
    watcher.verifying("w", 2**22, 2**22)
    watcher.verified(WEIGHTS)


def test_a_pipe_is_told_the_steps_of_a_download() -> None:
    stream = io.StringIO()
    with download_progress(Console(file=stream)) as watcher:
        act(watcher)
    assert stream.getvalue().splitlines() == [
        "owner/name @ cccccccccccc: 1 file, 2 MiB to download",
        "resumed at 50 %: w",
        "trying again: w: cut [here]",
        "downloading owner/name: 3 MiB of 4 MiB (75 %)",
        "downloading owner/name: 4 MiB of 4 MiB (100 %)",
        "verifying w: 4 MiB of 4 MiB (100 %)",
        "verified w (4 MiB)",
    ]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_terminal_shows_the_sum_each_file_the_speed_and_a_tick(width: int) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    console = Console(file=stream, force_terminal=True, width=width, highlight=False)
    with download_progress(console) as watcher:
        watcher.planned(PLAN)
        watcher.advanced(WEIGHTS, 3 * 2**20)
        drawn = "\n".join(str(line) for line in console.render_lines(watcher._progress.get_renderable(), pad=False))  # type: ignore[attr-defined]
        act(watcher)
    stream.flush()
    text = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "owner/name" in drawn
    assert "MiB" in drawn
    assert "\u2713 verified w (4 MiB)" in text
    assert "resumed at 50 %: w" in text


def test_a_terminal_without_unicode_gets_words() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    with download_progress(Console(file=stream, force_terminal=True, width=80, highlight=False)) as watcher:
        act(watcher)
    stream.flush()
    assert b"ok verified w" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_programs_get_every_step_once() -> None:
    lines: list[str] = []
    now = iter(range(100))
    act(Events(lines.append, clock=lambda: next(now) / 100))
    told = [json.loads(line) for line in lines]
    assert [event["event"] for event in told] == [
        "plan", "resumed", "retry", "progress", "progress", "verifying", "verified",
    ]  # fmt: skip
    assert told[0] == {
        "event": "plan", "model_id": "owner/name", "repository": "owner/name", "revision": "main", "commit": "c" * 40,
        "files": [
            {"path": "a.json", "size": 5, "present_bytes": 5, "sha256": None},
            {"path": "w", "size": 2**22, "present_bytes": 2**21, "sha256": None},
        ],
        "total_bytes": 2**22 + 5, "download_bytes": 2**21, "dry_run": False,
    }  # fmt: skip
    assert told[4] == {
        "event": "progress", "path": "w", "done_bytes": 2**22, "total_bytes": 2**22, "model_done_bytes": 2**22 + 5,
        "model_total_bytes": 2**22 + 5,
    }  # fmt: skip


def test_a_wheel_has_no_plan_and_is_told_all_the_same() -> None:
    lines: list[str] = []
    Events(lines.append)("wheel", 1, None)
    assert json.loads(lines[0])["path"] == "wheel"
