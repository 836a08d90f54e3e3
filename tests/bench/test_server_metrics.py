"""Prometheus text, read and subtracted."""

from __future__ import annotations

import pytest

from tests.bench.fake_server import FakeServer, serve
from tgi.bench.client import open_session
from tgi.bench.server_metrics import between, parse, scrape


def text(count: int, low: int, high: int, seconds: float) -> str:
    return f"""# HELP a_count what it is
# TYPE a_count counter
a_count{{method="x"}} {count}
a_count{{method="y"}} {count}
# TYPE queue gauge
queue 4
# TYPE a_seconds histogram
a_seconds_bucket{{le="0.1"}} {low}
a_seconds_bucket{{le="1"}} {high}
a_seconds_bucket{{le="+Inf"}} {high}
a_seconds_sum {seconds}
a_seconds_count {high}
# TYPE odd gauge
odd NaN
"""


def test_series_of_one_name_are_added_up_and_values_that_are_none_left_out() -> None:
    found = parse(text(3, 0, 0, 0.0))
    assert found.counters == {"a_count": 6}
    assert found.gauges == {"queue": 4}


def test_what_happened_is_after_minus_before() -> None:
    found = between(parse(text(3, 10, 20, 5.0)), parse(text(5, 10, 30, 10.0)))
    assert found.counters == {"a_count": 4}
    assert found.means == {"a_seconds": pytest.approx(0.5)}
    assert found.p50 == {"a_seconds": pytest.approx(0.55)}  # all ten between 0.1 and 1
    assert found.p99 == {"a_seconds": pytest.approx(0.991)}


def test_nothing_happened_is_nothing_told() -> None:
    same = parse(text(3, 10, 20, 5.0))
    assert between(same, same).counters == {}
    assert between(same, same).means == {}


@pytest.mark.parametrize("noise", ["", "<html>not metrics</html>", "a b c d", "# TYPE\nx"])
def test_other_text_is_an_empty_scrape(noise: str) -> None:
    assert parse(noise).counters == {}


async def test_a_server_without_metrics_tells_nothing() -> None:
    async with serve(FakeServer()) as url, open_session(10.0) as session:
        found = await scrape(session, url, {})
        assert found is not None
        assert found.gauges == {"tgi_queue_size": 3}
    async with serve(FakeServer(tgi=False)) as url, open_session(10.0) as session:
        assert await scrape(session, url, {}) is None
        assert await scrape(session, "http://127.0.0.1:9", {}) is None
