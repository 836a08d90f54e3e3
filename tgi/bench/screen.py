"""The live screen of a benchmark: a thread that draws what changed, at most four times a second, and listens to keys.

What the benchmark tells is only put into a queue, so that watching costs the measured requests nothing; everything
else happens in the thread. The terminal is put back on every way out: `q`, an exception, SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from tgi.bench.events import Control, Plan
from tgi.bench.results import Load, Run, Sample, Step, Trace
from tgi.bench.screen_canvas import changes
from tgi.bench.screen_draw import draw
from tgi.bench.screen_state import State

REFRESH_S = 0.25
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
_KEYS = {
    b"\x1b[C": "right", b"\x1bOC": "right", b"\x1b[D": "left", b"\x1bOD": "left", b"\x1b[Z": "left", b"\t": "tab",
    b"\x03": "ctrl-c",
}  # fmt: skip


class Screen:
    """An observer of a benchmark and a context manager around it.

    `keys` and `output` are file descriptors of a terminal. Inside, Ctrl-C is a key. `q` and Ctrl-C ask `control` to
    stop: that ends the run, or `left()` once the run is over.
    """

    def __init__(self, control: Control, *, keys: int, output: int, colour: bool) -> None:
        self.state = State()
        self.frames = 0
        self.draw_s = 0.0  # processor time of the thread
        self._control = control
        self._keys = keys
        self._output = output
        self._colour = colour
        self._events: deque[Callable[[], None]] = deque()
        self._left = asyncio.Event()
        self._closed = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._shown: list[str] = []
        self._size = os.terminal_size((0, 0))
        self._pressed = False
        self._told = False  # something since the last frame
        self._modes: list[Any] = []
        self._old_handler: Any = None
        self._thread = threading.Thread(target=self._run, name="bench-screen", daemon=True)

    def __enter__(self) -> Screen:
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        self._modes = termios.tcgetattr(self._keys)
        modes = [*self._modes]
        modes[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
        termios.tcsetattr(self._keys, termios.TCSANOW, modes)
        self._write(_ENTER)
        # Where nobody takes SIGTERM it would end the process at once, and leave the terminal as it is now.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._old_handler = signal.signal(signal.SIGTERM, self._terminated)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        self._restore()
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        if self._failure is not None and error is None:
            raise self._failure

    async def left(self) -> None:
        """After the run: until the user leaves. At once where the user, or a signal, has ended the run already."""
        waiting = [asyncio.ensure_future(waiter) for waiter in (self._left.wait(), self._control.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def run_started(self, plan: Plan) -> None:
        """Before the first request."""
        self._loop = asyncio.get_running_loop()
        self._events.append(lambda: self.state.begin(plan))

    def step_started(self, step: int, load: Load, target: int) -> None:
        """A step begins."""
        self._events.append(lambda: self.state.begin_step(step, load, target))

    def request_finished(self, step: int, trace: Trace) -> None:
        """A request ended."""
        self._events.append(lambda: self.state.steps[step].add(trace))

    def sample(self, step: int, sample: Sample) -> None:
        """The state of things."""
        self._events.append(lambda: self.state.steps[step].add_sample(sample))

    def step_finished(self, step: int, result: Step) -> None:
        """A step is over."""
        self._events.append(lambda: setattr(self.state.steps[step], "result", result))

    def run_finished(self, run: Run) -> None:
        """All is over; the screen stays until the user leaves, unless it was the user who ended it."""
        self._events.append(lambda: self._finish(run))

    def _finish(self, run: Run) -> None:
        self.state.over, self.state.interrupted = True, run.interrupted

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                began = time.thread_time()
                self._take()
                self._draw()
                self.draw_s += time.thread_time() - began
                self._listen(REFRESH_S)
        except OSError:  # the terminal was closed: nobody will end the run, or read its result
            self._tell(self._control.stop)
        except Exception as error:  # raised when the run is over: a broken picture must not end a measurement
            self._failure = error
            self._restore()
            self._tell(self._left.set)

    def _take(self) -> None:
        """Learn what the benchmark has told since."""
        while self._events:
            self._events.popleft()()
            self._told = True

    def _draw(self) -> None:
        """Draw a frame, if it would differ from the last: the picture depends on nothing but events, keys and size."""
        size = os.get_terminal_size(self._output)
        due = self._pressed or (self._told and not self.state.paused)
        if not due and size == self._size:
            return
        self._shown = self._shown if size == self._size else []
        self._pressed, self._told, self._size = False, False, size
        rows = draw(self.state, size.columns, size.lines).rows(colour=self._colour)
        self._write(changes(self._shown, rows))
        self._shown = rows
        self.frames += 1

    def _listen(self, patience_s: float) -> None:
        """Take keys until the next refresh is due; a key is answered at once. Raises: OSError without a terminal."""
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0 and not self._closed.is_set():
            # In short waits, so that the end of the run is not waited for.
            if not select.select([self._keys], [], [], min(left, 0.1))[0]:
                continue
            pressed = os.read(self._keys, 64)
            if not pressed:
                raise OSError("the terminal has ended")
            self._pressed = True
            if any([self.state.press(key) for key in split_keys(pressed)]):
                self._tell(self._control.stop)
            return

    def _tell(self, what: Callable[[], None]) -> None:
        """Call something in the thread of the benchmark."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(what)

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._output, data) :]

    def _restore(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # a terminal that has been closed
            self._write(_LEAVE)
            termios.tcsetattr(self._keys, termios.TCSANOW, self._modes)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def split_keys(data: bytes) -> list[str]:
    """The keys in what a terminal sent at once."""
    found = []
    while data:
        for length in (3, 1):
            name = _KEYS.get(data[:length])
            if name or length == 1:
                found.append(name or data[:1].decode(errors="replace"))
                data = data[length:]
                break
    return found
