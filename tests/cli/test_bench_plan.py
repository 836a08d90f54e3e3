"""Flags into loads, objectives and places for results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from tgi.cli.bench_flags import options
from tgi.cli.bench_plan import Wish, destinations, objectives, wish
from tgi.errors import ConfigError


def values(*arguments: str) -> dict[str, Any]:
    """What click makes of a command line."""
    command = click.Command("bench", params=options())
    return dict(command.make_context("bench", list(arguments)).params)


def plan(*arguments: str) -> Wish:
    return wish(values(*arguments))


def test_without_a_load_tgis_method_runs() -> None:
    found = plan()
    assert [load.concurrency for load in found.loads] == [1, 2, 4, 8, 16, 32]
    assert {(load.kind, load.prompt_tokens, load.output_tokens, load.runs) for load in found.loads} == {
        ("batch", 10, 8, 10)
    }
    assert found.loads[0].label == "Batch: 1"
    assert found.parameters["Decode Length"] == "8"
    assert found.warmups == 1


def test_tgis_flags_change_its_method() -> None:
    found = plan("-b", "3", "-b", "5", "-s", "20", "-d", "4", "-r", "2", "-w", "0", "--top-k", "5", "--do-sample")
    assert [(load.concurrency, load.requests) for load in found.loads] == [(3, 6), (5, 10)]
    assert (found.warmups, found.sampling.top_k, found.sampling.do_sample) == (0, 5, True)
    assert found.parameters["Top K"] == "5"
    assert found.parameters["Do Sample"] == "true"


def test_closed_loops_are_as_long_as_their_streams_ask() -> None:
    found = plan("-c", "1,32")
    assert [(load.kind, load.label, load.requests) for load in found.loads] == [
        ("concurrency", "1 stream", 16), ("concurrency", "32 streams", 128)
    ]  # fmt: skip
    assert [load.requests for load in plan("-c", "4", "-n", "9").loads] == [9]
    assert [(load.requests, load.duration_s) for load in plan("-c", "4", "--duration", "2m").loads] == [(None, 120)]
    assert (found.loads[0].prompt_tokens, found.loads[0].output_tokens) == (128, 64)


def test_open_loops_arrive_as_asked() -> None:
    assert [(load.kind, load.rate, load.duration_s) for load in plan("--rate", "0.5,2").loads] == [
        ("poisson", 0.5, 30.0), ("poisson", 2.0, 30.0)
    ]  # fmt: skip
    assert plan("--rate", "1", "--arrival", "constant", "-n", "7").loads[0].requests == 7


def test_bursts_conversations_prefixes_and_sweeps() -> None:
    assert [(load.kind, load.concurrency, load.runs) for load in plan("--burst", "8").loads] == [("burst", 8, 10)]
    load = plan("-c", "2", "--turns", "3", "-n", "12").loads[0]
    assert (load.kind, load.turns, load.label) == ("multi_turn", 3, "2 streams x 3 turns")
    assert plan("-c", "2", "--shared-prefix", "100").loads[0].shared_prefix_tokens == 100
    found = plan("--sweep", "-s", "64")
    assert found.sweep is not None
    assert (found.loads, found.sweep.prompt_tokens) == ((), 64)


def test_a_trace_is_a_load(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({"at_s": n, "prompt_tokens": 5, "output_tokens": 2}) for n in range(9)))
    found = plan("--replay", str(path), "-n", "4")
    assert (len(found.trace), found.loads[0].requests, found.loads[0].label) == (4, 4, "replay of trace.jsonl")


def test_a_seed_is_kept_and_else_drawn() -> None:
    assert plan("--seed", "5").seed == 5
    assert plan().seed != plan().seed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-c", "1", "--sweep"), "`--concurrency` and `--sweep` are two loads"),
        (("--turns", "2"), "`--turns 2` needs `--concurrency`"),
        (("--shared-prefix", "11"), "`--shared-prefix 11` is longer than a prompt of 10 tokens"),
        (("-c", "8", "-n", "4"), "`--requests 4` cannot keep 8 streams busy"),
        (("--slo", "tft=5ms"), "there is no objective `tft`"),
        (("--slo", "ttft=soon"), "`soon` is no time"),
    ],
)
def test_contradictions_are_refused_with_the_next_step(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        plan(*arguments)
    assert refused.value.hint


def test_objectives_have_units() -> None:
    found = objectives("ttft=500ms, itl=50,e2e=2s,tpot=0.1s")
    assert [(one.metric, one.milliseconds) for one in found] == [
        ("ttft", 500), ("itl", 50), ("e2e", 2000), ("itl", 100)
    ]  # fmt: skip
    assert objectives("") == ()


def test_results_go_to_stdout_and_to_files(tmp_path: Path) -> None:
    assert [(one.form, one.path) for one in destinations((), False)] == [("md", None)]
    assert [(one.form, one.path) for one in destinations((), True)] == [("json", None)]
    page = tmp_path / "a.html"
    assert [(one.form, one.path) for one in destinations((str(page), "csv"), False)] == [("html", page), ("csv", None)]


@pytest.mark.parametrize(
    ("names", "words"),
    [(("jsn",), "no format"), (("md", "csv"), "cannot share stdout"), (("/nowhere/a.json",), "does not exist")],
)
def test_places_that_cannot_be_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        destinations(names, False)
