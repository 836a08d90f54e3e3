"""The table of ratios follows from raw samples, and the README shows that of the newest run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import table
from benchmarks.peers.loads import Prompts

README = Path(__file__).parents[2] / "README.md"


def raw(samples: dict[tuple[str, str], list[float]], **changes: Any) -> dict[str, Any]:
    """A raw file with the given samples, one a round."""
    rounds = [
        {"round": number, "program": program, "load": "", "figures": {figure: value}}
        for (program, figure), values in samples.items()
        for number, value in enumerate(values)
    ]
    facts = {"date": "2026-01-01", "machine": "m", "command": "c", "num_rounds": 3, "versions": {}, "missing": {}}
    return {**facts, "rounds": rounds, **changes}


def row(label: str) -> table.Row:
    return next(row for row in table.ROWS if row.label == label)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine twice as slow in one round slows both: the ratio stays."""
    samples = table.collect(
        raw({("tgi Q4_1", "decode_1"): [100, 50, 110], ("llama Q4_1", "decode_1"): [50, 25, 50]})["rounds"]
    )
    judged = table.judge(row("the default Q4_1 file, 1 stream"), samples)
    assert judged is not None
    assert (judged.median, judged.low, judged.high) == (2.0, 2.0, 2.2)
    assert judged.verdict == "reached"


def test_our_best_meets_the_best_peer() -> None:
    samples = {("tgi Q4_1", "decode_1"): [90.0], ("tgi int8", "decode_1"): [130.0],
               ("llama Q4_0", "decode_1"): [100.0], ("llama Q8_0", "decode_1"): [70.0]}  # fmt: skip
    judged = table.judge(row("1 stream, decode, best quantised"), samples)
    assert judged is not None
    assert (judged.ours, judged.peer, judged.verdict) == ("tgi int8", "llama Q4_0", "holds")


def test_less_is_better_where_time_is_measured() -> None:
    samples = {("tgi Q4_1", "ttft_128_ms"): [110.0], ("llama F16", "ttft_128_ms"): [100.0],
               ("llama Q4_0", "ttft_128_ms"): [300.0]}  # fmt: skip
    judged = table.judge(row("time to first token, prompt 128"), samples)
    assert judged is not None
    assert (judged.peer, judged.verdict) == ("llama F16", "**under**")


def test_a_figure_of_ours_alone_is_judged_by_itself() -> None:
    judged = table.judge(row("idle, share of a core"), {("tgi Q4_1", "idle_percent"): [0.0, 0.2]})
    assert judged is not None
    assert math.isclose(judged.median, 0.1)
    assert judged.verdict == "reached"


def test_a_missing_peer_is_named() -> None:
    text = table.render(raw({}, missing={"llama Q4_0": "no compiler\nmore"}))
    assert "Missing: llama Q4_0 (no compiler)." in text
    assert "not measured" in text


def test_the_table_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{table.BEGIN}\nold\n{table.END}\nb\n")
    table.put(page, "new")
    assert page.read_text() == f"a\n{table.BEGIN}\nnew\n{table.END}\nb\n"
    page.write_text("no place")
    with pytest.raises(ValueError, match="no place for the figures"):
        table.put(page, "new")


def test_the_readme_shows_the_newest_figures() -> None:
    between = README.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0].strip()
    newest = table.newest()
    expected = "" if newest is None else table.render(json.loads(newest.read_text(encoding="utf-8"))).strip()
    assert between == expected


def test_prompts_have_the_length_asked_for_and_share_no_prefix() -> None:
    prompts = Prompts(range(50))
    made = [prompts.next(length) for length in (16, 128, 1024, 128)]
    assert [len(ids) for ids in made] == [16, 128, 1024, 128]
    assert len({tuple(ids[:2]) for ids in made}) == 4
