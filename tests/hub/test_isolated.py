"""A child without network: what it may do, and how its end is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tgi.errors import ModelError
from tgi.hub.isolated import run_isolated

HERE = "tests.hub.test_isolated"


def attempts(port: int) -> list[str]:
    """In the child: every way out that could be thought of, and how it ended."""
    import ctypes  # noqa: PLC0415  (the child's own)

    def low_level() -> None:
        if ctypes.CDLL(None, use_errno=True).socket(socket.AF_INET, socket.SOCK_STREAM, 0) < 0:
            raise PermissionError(ctypes.get_errno())

    ways = {
        "connect": lambda: socket.create_connection(("127.0.0.1", port)),
        "unix": lambda: socket.socket(socket.AF_UNIX),
        "pair": socket.socketpair,
        "program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        "shell": lambda: os.system("true"),
        "libc": low_level,
    }
    open_ways = []
    for name, way in ways.items():
        try:
            way()
        except OSError:
            continue
        open_ways.append(name)
    return open_ways


def add(one: int, two: int) -> int:
    """In the child."""
    return one + two


def refuse() -> None:
    """In the child."""
    raise ModelError("no", hint="yes", exit_code=18)


def crash() -> None:
    """In the child."""
    os._exit(3)


def fail() -> None:
    """In the child."""
    raise ValueError("bad\nsecond line")


def write(path: str) -> None:
    """In the child."""
    Path(path).write_text("here")


def test_nothing_leads_out_of_the_child() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        expected = [] if sys.platform == "linux" else ["libc"]
        assert run_isolated(f"{HERE}:attempts", server.getsockname()[1]) == expected


def test_it_computes_and_writes_files(tmp_path: Path) -> None:
    assert run_isolated(f"{HERE}:add", 1, 2) == 3
    run_isolated(f"{HERE}:write", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize(
    ("name", "code", "words"), [("refuse", 18, "no"), ("crash", 16, "status 3"), ("fail", 16, "ValueError: bad")]
)
def test_its_failure_is_told(name: str, code: int, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        run_isolated(f"{HERE}:{name}")
    assert caught.value.exit_code == code
    assert words in caught.value.message
    assert "second line" not in caught.value.message
    assert caught.value.hint
