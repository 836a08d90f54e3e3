"""What the live screen of `tgi bench` takes of a core: `python -m benchmarks.live_screen`.

An example of a benchmark in a pseudo-terminal, where every frame shows another tab. The figure is the processor time of
the screen's thread for one frame, four times a second; a benchmark takes less, because most of its frames change a few
figures only, and where nothing changed there is none.
"""

from __future__ import annotations

import argparse
import re
import sys

from tests.terminal import Terminal
from tgi.bench.screen import REFRESH_S

REPLAY = [sys.executable, "-m", "tests.bench.replay_screen", "streams"]


def measure(columns: int, rows: int, keys: int) -> tuple[int, float]:
    """Press a key as often and wait for what it shows. Returns: frames, and their seconds of processor time."""
    with Terminal(REPLAY, columns=columns, rows=rows) as terminal:
        terminal.until("4/4 steps")
        for _ in range(keys):
            before = terminal.screen.buffer[1].copy()
            terminal.press("\t")
            terminal.until(lambda _, before=before: terminal.screen.buffer[1] != before)  # type: ignore[misc]
        terminal.press("q")
        terminal.wait()
        found = re.search(r"frames (\d+) draw_s ([\d.]+)", terminal.text())
        assert found is not None, terminal.text()
        return int(found[1]), float(found[2])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="160x50", help="columns and rows of the terminal [%(default)s]")
    parser.add_argument("--keys", type=int, default=50, help="keys to press [%(default)s]")
    arguments = parser.parse_args()
    columns, rows = (int(part) for part in arguments.size.split("x"))
    frames, seconds = measure(columns, rows, arguments.keys)
    print(f"{arguments.size}: {frames} frames, {1000 * seconds / frames:.2f} ms each", end=", ")
    print(f"{100 * seconds / frames / REFRESH_S:.2f} % of a core at {1 / REFRESH_S:.0f} a second")


if __name__ == "__main__":
    main()
