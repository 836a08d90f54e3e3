"""The live screen in a pseudo-terminal: sizes, keys, and a terminal that is put back on every way out."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import Iterator

import pytest

from tests.bench.example_results import TARGET, play, step, traces
from tests.terminal import Terminal
from tgi.bench.events import Control, Plan
from tgi.bench.screen import Screen, split_keys
from tgi.bench.screen_canvas import Canvas


def replay(kind: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.replay_screen", kind]


def active_tab(terminal: Terminal) -> str:
    """The words of the reversed tab."""
    line = terminal.screen.buffer[1]
    return "".join(line[x].data for x in range(terminal.screen.columns) if line[x].reverse).strip()


def foreground(terminal: Terminal, words: str) -> str:
    """The colour of the first of these words on the screen."""
    for y, line in enumerate(terminal.screen.display):
        if words in line:
            return str(terminal.screen.buffer[y][line.index(words)].fg)
    raise AssertionError(f"{words!r} is not on the screen:\n{terminal.text()}")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 50), (60, 20)])
@pytest.mark.parametrize("kind", ["streams", "batch"])
def test_the_whole_screen_is_there_at_every_size(kind: str, columns: int, rows: int) -> None:
    with Terminal(replay(kind), columns=columns, rows=rows) as terminal:
        terminal.until("4/4 steps")
        assert terminal.until("[done]").startswith("Model: HuggingFac")
        for words in ("q quit", "Tabs", "Total Progress", "100 %", "p50", "p90", "p99", "●4"):
            terminal.until(words)
        wanted = {
            "streams": ("TTFT", "8 streams", "Step Progress", "Throughput", "Client and server", "http_429"),
            "batch": ("Prefill", "Batch: 8", "Batch Progress", "10/10 runs", "Decode", "throughput over l"),
        }[kind]
        for words in wanted:
            terminal.until(words)
        screen = terminal.text()
        if columns > 60:
            assert all(
                words in screen for words in ("[done]", "zoom", "─ Throughput over TTFT" if kind == "streams" else "")
            )
            assert ("Average" in screen and "Lowest" in screen and "Highest" in screen) or kind == "batch"
        assert [foreground(terminal, words) for words in ("p50", "p90", "p99")] == ["green", "brown", "red"]
        terminal.press("q")
        assert terminal.wait() == 0
        assert "the tables follow" in terminal.text()
        assert terminal.restored()


def test_keys_choose_tabs_zoom_and_pause() -> None:
    with Terminal(replay("streams")) as terminal:
        terminal.until("4/4 steps")
        assert active_tab(terminal) == "✓ 8 streams"  # it followed the progress
        for key, tab in (("\x1b[C", "1 stream"), ("\t", "2 streams"), ("\x1b[D", "1 stream"), ("\x1b[D", "8 streams")):
            terminal.press(key)
            terminal.until(lambda _, tab=tab: active_tab(terminal) == f"✓ {tab}")  # type: ignore[misc]
        terminal.press("+")
        assert "TTFT to p99" in terminal.until("[zoom 1]")
        terminal.press("+++++++")
        terminal.until("[zoom 5]")
        terminal.press("------")
        terminal.until(lambda screen: "zoom 5" not in screen and "[zoom" not in screen)
        terminal.press("p")
        terminal.until("[paused]")
        terminal.press("p")
        terminal.until(lambda screen: "[paused]" not in screen)
        terminal.press("\x03")
        assert terminal.wait() == 0
        assert terminal.restored()


def test_the_screen_follows_the_size_of_the_window() -> None:
    with Terminal(replay("streams")) as terminal:
        terminal.until("4/4 steps")
        terminal.resize(160, 50)
        terminal.until("Throughput over Inter-token p50")
        terminal.until(lambda _: terminal.screen.display[-1].startswith("╰"))
        terminal.resize(60, 20)
        terminal.until(lambda screen: "Avg" in screen and terminal.screen.display[-1].startswith("╰"))
        terminal.resize(40, 10)
        terminal.until("too small")
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.restored()


@pytest.mark.parametrize(
    ("kind", "act", "code"),
    [
        ("busy", "q", 0),
        ("busy", "\x03", 0),
        ("busy", signal.SIGTERM, -signal.SIGTERM),
        ("failing", None, 1),
        ("broken", None, 1),
    ],
)
def test_the_terminal_is_put_back_on_every_way_out(kind: str, act: str | signal.Signals | None, code: int) -> None:
    with Terminal(replay(kind)) as terminal:
        if kind == "busy":
            screen = terminal.until("3/4 steps")
            assert "40/40 requests" in screen
        if isinstance(act, str):
            terminal.press(act)
        elif act is not None:
            os.kill(terminal.process.pid, act)
        assert terminal.wait() == code
        assert terminal.restored()
        assert {"failing": "the run failed", "broken": "KeyError"}.get(kind, "") in terminal.text()


def test_without_colours_the_screen_is_the_same() -> None:
    with Terminal(replay("streams"), environment={"NO_COLOR": "1"}) as terminal:
        terminal.until("4/4 steps")
        terminal.press("q")
        assert terminal.wait() == 0
    assert not re.search(rb"\x1b\[(1;)?3[0-7]m", terminal.written)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Screen, list[str]]]:
    """A screen of 160x50 whose thread does not run, and what it wrote."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    screen, written = Screen(Control(), keys=theirs, output=theirs, colour=True), list[str]()
    monkeypatch.setattr(screen, "_write", written.append)
    yield screen, written
    os.close(ours)
    os.close(theirs)


def refresh(screen: Screen) -> int:
    """What the thread does four times a second. Returns: the frames drawn so far."""
    screen._take()
    screen._draw()
    return screen.frames


async def test_a_frame_is_drawn_only_when_there_is_something_new(still: tuple[Screen, list[str]]) -> None:
    screen, _ = still
    assert [refresh(screen) for _ in range(3)] == [1, 1, 1]
    play(screen)  # hundreds of events at once
    assert [refresh(screen) for _ in range(3)] == [2, 2, 2]
    screen._pressed = True
    assert [refresh(screen) for _ in range(3)] == [3, 3, 3]
    fcntl.ioctl(screen._output, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    assert [refresh(screen) for _ in range(3)] == [4, 4, 4]


async def test_a_frame_is_few_characters_however_many_requests_there_were(
    still: tuple[Screen, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0
    put = Canvas.text

    def counted(canvas: Canvas, x: int, y: int, words: str, *style: str, **room: int | None) -> None:
        nonlocal drawn
        drawn += len(words)
        put(canvas, x, y, words, *style, **room)  # type: ignore[arg-type]

    monkeypatch.setattr(Canvas, "text", counted)
    screen, written = still
    load = step(8).load
    screen.run_started(Plan(targets=(TARGET,), loads=(load,), title="many requests"))
    screen.step_started(0, load, 0)
    for requests in (10, 2000):
        for trace in traces(8, requests=requests):
            screen.request_finished(0, trace)
        drawn = 0
        refresh(screen)
        assert drawn < 2 * 160 * 50
    # One request more changes a few figures: all other rows stay as they are.
    screen.request_finished(0, traces(8, requests=1, failures=0)[0])
    refresh(screen)
    assert 0 < written[-1].count(";1H") < 15


def test_a_paused_screen_is_drawn_again_only_for_a_key(still: tuple[Screen, list[str]]) -> None:
    screen, _ = still
    screen._draw()
    screen.state.press("p")
    for pressed, frames in ((False, 1), (True, 2), (False, 2)):
        screen._pressed, screen._told = pressed, True
        screen._draw()
        assert screen.frames == frames


def test_keys_that_come_at_once_are_told_apart() -> None:
    assert split_keys(b"\x1b[C\t+q\x1bOD\x03") == ["right", "tab", "+", "q", "left", "ctrl-c"]
    assert split_keys("é".encode()) == ["�", "�"]
