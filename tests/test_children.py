"""Children that inherit nothing of our program, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from tgi import children

PROGRAM = """
import multiprocessing, sys
from tests.test_children import describe
from tgi import children

print("this program runs")
if multiprocessing.parent_process() is None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=describe, args=(theirs,))
    children.start(process)
    print(ours.recv())
    process.join()
"""


def describe(answer: Connection) -> None:
    """Send how many children the parent of this process has."""
    children_of_parent = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children")
    answer.send(len(children_of_parent.read_text().split()) if children_of_parent.exists() else 1)


def test_a_child_does_not_run_the_program_of_its_parent_and_brings_no_second_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "this program runs\n1\n"


def test_our_program_is_what_it_was_after_a_start() -> None:
    program = sys.modules["__main__"]
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=describe, args=(theirs,))
    children.start(process)
    assert sys.modules["__main__"] is program
    ours.recv()
    process.join()


def test_a_child_whose_parent_is_gone_ends() -> None:
    code = "from tgi import children; children.die_with(1); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 or sys.platform != "linux"
