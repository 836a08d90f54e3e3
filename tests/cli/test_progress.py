"""A download is watched as a bar on a terminal, and as few plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tgi.cli import progress as shown
from tgi.cli.progress import download_progress, size


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
