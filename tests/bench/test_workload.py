"""What is sent and when: arrivals, traces of traffic, requests."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from tests.bench.fake_server import FakeServer, serve
from tgi.bench.client import open_session
from tgi.bench.endpoint import connect
from tgi.bench.prompts import ServerCounter, prompt_maker
from tgi.bench.results import Load
from tgi.bench.workload import Arrival, JobMaker, moments, read_trace
from tgi.errors import ConfigError


def test_a_constant_loop_has_equal_gaps() -> None:
    assert moments(Load(kind="constant", label="x", rate=4.0, duration_s=1.0), 0) == [0.0, 0.25, 0.5, 0.75]


def test_a_poisson_loop_has_exponential_gaps_that_the_seed_decides() -> None:
    load = Load(kind="poisson", label="x", rate=50.0, requests=4000)
    found = moments(load, 1)
    assert found == moments(load, 1)
    assert found != moments(load, 2)
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)  # exponential: as large as the mean


def test_a_loop_of_a_length_ends_with_it() -> None:
    assert max(moments(Load(kind="poisson", label="x", rate=50.0, duration_s=2.0), 1)) < 2.0


def write(folder: Path, *lines: object) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_traces_are_read_in_our_words_and_in_those_of_published_ones(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"at_s": 12.0, "prompt": "hello", "max_tokens": 5},
        {"timestamp": 10_000, "input_length": 30, "output_length": 4, "hash_ids": [1]},
        "",
        {"at_s": 10.5, "prompt_tokens": 7, "output_tokens": 3},
    )
    assert read_trace(path) == [
        Arrival(at_s=0.0, prompt_tokens=30, output_tokens=4),
        Arrival(at_s=0.5, prompt_tokens=7, output_tokens=3),
        Arrival(at_s=2.0, prompt_tokens=0, output_tokens=5, prompt="hello"),
    ]
    assert len(read_trace(path, limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 2"),
        ({"prompt_tokens": 3}, "lacks `at_s`, `output_tokens`"),
        ({"at_s": 0}, "lacks `prompt_tokens`, `output_tokens`"),
        ({"at_s": -1, "prompt_tokens": 3, "output_tokens": 3}, "negative"),
        ({"at_s": 0, "prompt_tokens": 0, "output_tokens": 3}, "empty"),
        ({"at_s": "soon", "prompt_tokens": 1, "output_tokens": 3}, "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, words: str) -> None:
    path = write(tmp_path, {"at_s": 0, "prompt_tokens": 1, "output_tokens": 1}, line)
    with pytest.raises(ConfigError, match=words) as refused:
        read_trace(path)
    assert "line 2" in str(refused.value)


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no request"):
        read_trace(write(tmp_path))


async def test_requests_have_the_lengths_of_the_load_or_of_the_trace() -> None:
    async with serve(FakeServer()) as url, open_session(10.0) as session:
        endpoint = await connect(session, url)
        prompts = await prompt_maker(ServerCounter(session, endpoint), 0)
    job = await JobMaker(endpoint, prompts, Load(kind="concurrency", label="x", prompt_tokens=9, output_tokens=4)).make(
        3
    )
    body = json.loads(job.body)
    assert (len(body["inputs"].split()), body["parameters"]["max_new_tokens"]) == (9, 4)
    trace = (Arrival(at_s=0.0, prompt_tokens=2, output_tokens=1), Arrival(at_s=1.0, prompt_tokens=0, output_tokens=2,
                                                                          prompt="as it was"))  # fmt: skip
    replay = JobMaker(endpoint, prompts, Load(kind="replay", label="x"), trace)
    assert len(json.loads((await replay.make(0, index=0)).body)["inputs"].split()) == 2
    assert json.loads((await replay.make(1, index=1)).body)["inputs"] == "as it was"
