"""Who only wants a sum gets a sum that never moves back."""

from __future__ import annotations

from typing import Any

from tgi.hub.selection import Plan, PlannedFile
from tgi.hub.watch import Watcher, watcher


def test_a_plain_progress_is_told_the_sum_over_all_files() -> None:
    told: list[Any] = []
    one, two = PlannedFile("a", 10, 4), PlannedFile("b", 10)
    both = watcher(lambda *facts: told.append(facts))
    both.planned(Plan("m", "m", None, None, (one, two)))
    both.advanced(two, 5)
    both.advanced(two, 0)  # it starts again
    both.advanced(one, 10)
    both("wheel", 1, None)
    assert told == [("m", 4, 20), ("m", 9, 20), ("m", 10, 20), ("wheel", 1, None)]


def test_a_watcher_is_asked_itself_and_may_ignore_everything() -> None:
    quiet, file = Watcher(), PlannedFile("a", 1)
    assert watcher(quiet) is quiet
    quiet("a", 0, None)
    quiet.planned(Plan("m", "m", None, None, (file,)))
    quiet.resumed(file, 1)
    quiet.retrying(file, "why")
    quiet.verifying("a", 0, 1)
    quiet.verified(file)
