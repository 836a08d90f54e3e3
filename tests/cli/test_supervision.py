"""Children are watched, told to end, killed when they do not, restarted within bounds, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tgi.cli.supervision import Ended, Guardian, Restarts

NEVER_S = 60.0


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A test that fails inside the block must not leave its handlers to the others."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def watch(job: Callable[[Callable[[], None]], int], grace_s: float = NEVER_S) -> tuple[Ended, int]:
    """How a child that does `job` ended, and how many signals came."""
    with Guardian() as guardian:
        return guardian.watch("child", job, grace_s=grace_s), guardian.signals


def wait_for_signal(*, deaf: bool = False) -> int:
    """What a child does that ends with 7 at SIGTERM, or never."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda number, frame: os._exit(7))
    os.kill(os.getppid(), signal.SIGTERM)
    while True:
        signal.pause()


def leave(code: int) -> int:
    raise SystemExit(code)


def test_an_exit_code_is_handed_on() -> None:
    assert watch(lambda announce: 3)[0] == Ended(3, "", None)
    assert watch(lambda announce: leave(5))[0].code == 5


def test_an_error_is_explained_and_ends_the_child_alone(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(announce: object) -> int:
        raise ValueError("broken")

    assert watch(fail)[0].how == "ended with exit code 1"
    assert "broken" in capfd.readouterr().err


def test_a_killed_child_is_reported_by_its_signal() -> None:
    def die(announce: Callable[[], None]) -> int:
        announce()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    ended, _ = watch(die)
    assert (ended.code, ended.killer, ended.how) == (None, "SIGKILL", "was killed by SIGKILL")
    assert ended.useful_s is not None


def test_a_signal_is_passed_on_once_and_the_child_may_take_its_time() -> None:
    ended, signals = watch(lambda announce: wait_for_signal())
    assert (ended.code, signals) == (7, 1)


def test_a_child_that_does_not_end_is_killed_after_its_grace() -> None:
    ended, signals = watch(lambda announce: wait_for_signal(deaf=True), grace_s=0.05)
    assert (ended.killer, signals) == ("SIGKILL", 1)


def test_a_child_is_in_a_process_group_of_its_own_and_hears_signals_as_before() -> None:
    own = os.getpgid(0)

    def look(announce: object) -> int:
        handled = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        return 0 if os.getpgid(0) == os.getpid() != own and handled else 1

    assert watch(look)[0].code == 0


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    def start_another(announce: object) -> int:
        other = subprocess.Popen(["sleep", "60"])
        (tmp_path / "pid").write_text(str(other.pid))
        os._exit(0)

    watch(start_another)
    other = int((tmp_path / "pid").read_text())
    psutil.wait_procs([psutil.Process(other)] if psutil.pid_exists(other) else [], timeout=5)
    assert not psutil.pid_exists(other) or psutil.Process(other).status() == psutil.STATUS_ZOMBIE


def test_a_signal_cuts_a_pause_short() -> None:
    with Guardian() as guardian:
        os.kill(os.getpid(), signal.SIGHUP)
        began = time.monotonic()
        guardian.pause(NEVER_S)
        assert time.monotonic() - began < NEVER_S / 2
        assert guardian.stopping


def test_a_long_start_is_told_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi.cli.supervision.REMIND_S", 0.01)
    told: list[str] = []
    reading, writing = os.pipe()

    def remind(name: str, seconds: float) -> None:
        told.append(name)
        os.write(writing, b"go")

    with Guardian(remind=remind) as guardian:
        guardian.watch("server", lambda announce: len(os.read(reading, 2)) - 2, grace_s=NEVER_S)
    assert told[0] == "server"


def test_a_killed_guardian_takes_its_child_along(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom tgi.cli.supervision import Guardian\n"
        "def job(announce):\n    print(os.getpid(), flush=True)\n    signal.pause()\n"
        "with Guardian() as guardian:\n    guardian.watch('child', job, grace_s=60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait()
        gone, alive = psutil.wait_procs([child], timeout=5)
    assert gone or child.status() == psutil.STATUS_ZOMBIE, alive


def test_restarts_slow_down_and_end() -> None:
    restarts = Restarts()
    useless = Ended(None, "SIGKILL", 0.5)
    assert [restarts.delay_s(useless) for _ in range(5)] == pytest.approx([0.1, 0.3, 0.9, 2.7, None])


def test_a_child_that_was_of_use_clears_the_account() -> None:
    restarts = Restarts()
    for _ in range(20):
        assert restarts.delay_s(Ended(None, "SIGKILL", 6.0)) == pytest.approx(0.1)
