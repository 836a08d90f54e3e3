"""A batch is what runs between two joins; a sequence finds the one in which it joined."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.test_metrics import stats
from tgi.server import batch_spans
from tgi.server.batch_spans import BatchSpans
from tgi.server.observer import Observer


class Span:
    """A span that remembers."""

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.attributes: dict[str, Any] = {}
        self.ended = False

    def set_attributes(self, attributes: dict[str, Any]) -> None:
        self.attributes.update(attributes)

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def get_span_context(self) -> Span:
        return self


class Heard(Observer):
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in ("step", "idle", "refuse", "die", "restart", "resume"):
            self.told.append(name)
        return super().__getattribute__(name)


class Bench:
    """Batches over a clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(batch_spans.time, "monotonic", lambda: self.now)
        self.spans: list[Span] = []
        self.heard = Heard()
        self.batches = BatchSpans(self.begin, self.finish, self.heard)  # type: ignore[arg-type]

    def begin(self, moment: float) -> Span:
        self.spans.append(Span(moment))
        return self.spans[-1]

    @staticmethod
    def finish(span: Span) -> None:
        assert not span.ended
        span.ended = True


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_batch_lasts_until_another_sequence_joins_or_none_is_left(bench: Bench) -> None:
    bench.batches.step(stats(running=1, started_ids=(1,), prefill_tokens=5, forward_s=2.0, sample_s=1.0), 0.5)
    bench.batches.step(stats(running=1, decode_tokens=1), 0.0)
    bench.batches.step(stats(running=2, started_ids=(2,), prefill_tokens=3, decode_tokens=1), 0.0)
    first, second = bench.spans
    assert (first.begin, first.ended, second.ended) == (96.5, True, False)
    assert first.attributes == {"batch_size": 1, "steps": 2, "tokens": 6}
    bench.batches.step(stats(running=0, decode_tokens=2), 0.0)
    assert second.attributes == {"batch_size": 2, "steps": 2, "tokens": 6}
    assert second.ended


def test_a_sequence_finds_the_batch_in_which_it_joined(bench: Bench) -> None:
    for moment in (100.0, 110.0, 120.0):
        bench.now = moment
        bench.batches.step(stats(running=2, started_ids=(int(moment),), prefill_tokens=1), 0.0)
    found = [bench.batches.joined(scheduled) for scheduled in (99.0, 105.0, 119.0, 121.0)]
    assert found == [*bench.spans, None]


def test_aborts_and_deaths_end_a_batch(bench: Bench) -> None:
    bench.batches.step(stats(running=1, started_ids=(1,)), 0.0)
    bench.batches.idle(5)
    bench.batches.step(stats(running=1, started_ids=(2,)), 0.0)
    bench.batches.die(1, ("decode",))
    bench.batches.die(0, ())
    assert [span.ended for span in bench.spans] == [True, True]
    assert "error.type" not in bench.spans[0].attributes
    assert bench.spans[1].attributes["error.type"] == "engine_gone"


def test_the_other_observer_is_told_everything(bench: Bench) -> None:
    bench.batches.step(stats(), 0.0)
    bench.batches.idle(1)
    bench.batches.refuse(1, "out of memory", ("decode",))
    bench.batches.die(0, ())
    bench.batches.restart("signal")
    bench.batches.resume(0.1)
    assert bench.heard.told == ["step", "idle", "refuse", "die", "restart", "resume"]
