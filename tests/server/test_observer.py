"""Who listens to the engine's supervisor."""

from __future__ import annotations

import inspect

from tgi.server.metrics import Metrics
from tgi.server.observer import Observer


def test_the_metrics_hear_everything_an_observer_is_told() -> None:
    told = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction)]
    assert len(told) == 6
    for name in told:
        assert name in vars(Metrics), name
        assert inspect.signature(vars(Metrics)[name]) == inspect.signature(vars(Observer)[name])
