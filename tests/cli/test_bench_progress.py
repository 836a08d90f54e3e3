"""A benchmark in lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench import example_results
from tgi.cli.bench_progress import Lines


def test_steps_failures_and_figures_are_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    example_results.play(Lines())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("measuring HuggingFaceTB/SmolLM2-135M-Instruct at http://127.0.0.1:3000")
    assert "step 2 of 4: 2 streams\n" in err
    assert "a request failed, http_429: Model is overloaded" in err
    assert err.count("a request failed, http_429") == 1
    assert "output tokens/s, TTFT p50" in err
    assert "2 failed" in err


def test_a_long_step_is_not_silent(capsys: pytest.CaptureFixture[str]) -> None:
    step = example_results.step(1)
    samples = tuple(replace(step.samples[0], at_s=at / 4) for at in range(1, 101))
    example_results.play(Lines(), example_results.run((replace(step, samples=samples),)))
    assert capsys.readouterr().err.count("requests done") == 2


def test_a_server_cannot_send_control_characters_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    step = example_results.step(1)
    trace = replace(step.traces[-1], error="http_500", message="\x1b[2Jgone")
    example_results.play(Lines(), example_results.run((replace(step, traces=(trace,)),)))
    assert "\x1b" not in capsys.readouterr().err
