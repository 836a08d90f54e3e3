"""The words of `tgi bench` before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import example_results
from tests.cli.test_main import run
from tgi.bench import results


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("http://a http://b", ["two servers are given", "tgi bench compare http://a http://b"]),
        ("http://a --url http://b", ["two servers are given"]),
        ("http://a --model-id m", ["`--model-id` starts a server, and `http://a` is one already"]),
        ("-- --dtype float32", ["flags after `--` are for a server that is started here", "--model-id"]),
        ("-m /tmp/text-generation-server-0", ["`--master-shard-uds-path /tmp/text-generation-server-0`", "its URL"]),
        ("compare http://a", ["`compare` needs two URLs or two files; 1 given"]),
        ("compare a.json b.json", ["`a.json` does not exist"]),
        ("ftp://a", ["`ftp://a` is no URL of a server"]),
        ("http://127.0.0.1:9 --slo tft=1s", ["did you mean `ttft`?"]),
        ("-m http://127.0.0.1:9", ["nobody answers at `http://127.0.0.1:9`: connection refused"]),
        ("http://127.0.0.1:9 --concurency 3", ["did you mean `--concurrency`?"]),
        ("--model-id /nowhere/model.gguf", ["`tgi serve` did not start", "/nowhere/model.gguf", "check the path"]),
    ],
)
def test_mistakes_are_answered_with_their_value_and_the_next_step(
    capsys: pytest.CaptureFixture[str], arguments: str, shown: list[str]
) -> None:
    code, out, err = run(capsys, "bench", "--no-roof", *arguments.split())
    assert code in (1, 2)
    assert out == ""
    assert "hint: " in err
    assert len(err.splitlines()) <= 5
    assert "Traceback" not in err
    for part in shown:
        assert part in err


def test_two_saved_results_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        file.write_bytes(results.to_json(example_results.run()))
    code, out, err = run(capsys, "bench", "compare", *map(str, files))
    assert (code, err) == (0, "")
    assert "Verdict: no difference shown" in out
    page = tmp_path / "other.json"
    page.write_text("{}")
    assert "is no result of `tgi bench`" in run(capsys, "bench", "compare", str(files[0]), str(page))[2]
    code, out, _ = run(capsys, "bench", "compare", *map(str, files), "--json")
    assert results.from_json(out.encode(), "x").comparison
