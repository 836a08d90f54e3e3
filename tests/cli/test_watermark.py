"""`tgi watermark detect` says of a text what transformers' detector says of its tokens."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
import transformers

from tests.tiny_models import tiny_model
from tgi.cli.main import main
from tgi.runner.watermark import green_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def width(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["vocab_size"])


def encode(model: Path, text: str) -> list[int]:
    ids: list[int] = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    return ids


def marked_text(model: Path, gamma: float, length: int = 80) -> str:
    """A text whose every letter is green after the one before it."""
    letters = {encode(model, letter)[-1]: letter for letter in "abcdefghijklmnopqrstuvwxyz"}
    text = "a"
    for index in range(length):
        green = green_tokens(encode(model, text)[-1], width(model), gamma)
        choices = [letter for token_id, letter in letters.items() if green[token_id]]
        text += choices[index % len(choices)]
    return text


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["watermark", "detect", *arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_a_marked_text_is_found_and_counted_as_by_transformers(
    model: Path, gamma: float, capsys: pytest.CaptureFixture[str]
) -> None:
    text = marked_text(model, gamma)
    detector = transformers.WatermarkDetector(
        SimpleNamespace(vocab_size=width(model), bos_token_id=-1, is_encoder_decoder=False),  # type: ignore[arg-type]
        device="cpu",
        watermarking_config={"greenlist_ratio": gamma, "bias": 2.0, "seeding_scheme": "lefthash"},
        ignore_repeated_ngrams=True,
    )
    expected = detector(torch.tensor([encode(model, text)]), return_dict=True)

    assert run(text, "--model-id", str(model), "--watermark-gamma", str(gamma), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_tokens"], found["num_green"]) == (expected.num_tokens_scored[0], expected.num_green_tokens[0])
    assert found["z_score"] == pytest.approx(expected.z_score[0])
    assert found["watermarked"] is True


def test_a_text_may_come_from_stdin_and_people_get_lines(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the quick brown fox jumps over the lazy dog"))
    assert run("--model-id", str(model)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tokens", "green", "z-score", "verdict"]
    assert lines[-1].endswith("not watermarked")


def test_the_threshold_decides(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("some words", "--model-id", str(model), "--z-threshold", "-100", "--json") == 0
    assert json.loads(capsys.readouterr().out)["watermarked"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["a"], 1, "tells nothing"),
        (["some text", "--watermark-gamma", "1.5"], 1, "`--watermark-gamma`"),
        (["some text", "--model-id", "./missing"], 12, "`./missing`"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_next_step(
    model: Path, arguments: list[str], code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model-id", str(model), *arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert shown in err
    assert "hint: " in err
