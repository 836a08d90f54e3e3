"""Durations of a request's phases."""

from __future__ import annotations

import pytest

from tgi.server.timing import Timings, words


def test_phases_add_up() -> None:
    timings = Timings(received=10.0, queued=10.5, scheduled=11.5, done=15.5)
    assert (timings.validation_s, timings.queue_s, timings.inference_s, timings.total_s) == (0.5, 1.0, 4.0, 5.5)
    assert (timings.per_token_s(8), timings.per_token_s(0)) == (0.5, 4.0)


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5s"), (0.00123, "1.23ms"), (4.5e-5, "45µs"), (0.0, "0µs")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert words(seconds) == text
