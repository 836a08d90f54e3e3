"""The flags of `tgi bench`."""

from __future__ import annotations

import click
import pytest

from tests.cli.test_main import run
from tgi.cli.bench_flags import Numbers, Seconds, options, seconds_of

# spec/cli.md section 8: names, variable, default.
TGI = {
    "tokenizer_name": (("-t", "--tokenizer-name"), "TOKENIZER_NAME", None),
    "revision": (("--revision",), "REVISION", "main"),
    "batch_size": (("-b", "--batch-size"), None, ()),
    "sequence_length": (("-s", "--sequence-length"), "SEQUENCE_LENGTH", None),
    "decode_length": (("-d", "--decode-length"), "DECODE_LENGTH", None),
    "runs": (("-r", "--runs"), "RUNS", 10),
    "warmups": (("-w", "--warmups"), "WARMUPS", 1),
    "master_shard_uds_path": (("-m", "--master-shard-uds-path"), "MASTER_SHARD_UDS_PATH", None),
    "temperature": (("--temperature",), "TEMPERATURE", None),
    "top_k": (("--top-k",), "TOP_K", None),
    "top_p": (("--top-p",), "TOP_P", None),
    "typical_p": (("--typical-p",), "TYPICAL_P", None),
    "repetition_penalty": (("--repetition-penalty",), "REPETITION_PENALTY", None),
    "frequency_penalty": (("--frequency-penalty",), "FREQUENCY_PENALTY", None),
    "watermark": (("--watermark",), "WATERMARK", False),
    "do_sample": (("--do-sample",), "DO_SAMPLE", False),
    "top_n_tokens": (("--top-n-tokens",), "TOP_N_TOKENS", 0),
}


@pytest.mark.parametrize("name", TGI)
def test_tgis_flags_have_their_names_variables_and_defaults(name: str) -> None:
    names, variable, default = TGI[name]
    option = {option.name: option for option in options()}[name]
    given = click.Command("x", params=options()).make_context("x", []).params
    assert tuple(option.opts) == names
    assert option.envvar == variable
    assert given[name] == default


def test_an_empty_variable_counts_as_unset(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQUENCE_LENGTH", " ")
    assert "nobody answers" in run(capsys, "bench", "http://127.0.0.1:9")[2]
    monkeypatch.setenv("SEQUENCE_LENGTH", "ten")
    code, _, err = run(capsys, "bench", "http://127.0.0.1:9")
    assert code == 2
    assert "`SEQUENCE_LENGTH` is set in the environment" in err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("2m", 120), ("1.5h", 5400), ("soon", None), ("", None)],
)
def test_times_are_read_with_their_units(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "a", "1,,b", "-3", "nan"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no list of positive numbers"):
        Numbers(int).convert(text, None, None)
    with pytest.raises(click.BadParameter, match="is no time"):
        Seconds().convert("0s", None, None)


def test_help_fits_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bench", "--help")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    for names, variable, _ in TGI.values():
        assert all(name in out for name in names)
        assert variable is None or f"env: {variable}" in out.replace("\n", " ").replace("  ", "")
    assert "Examples:" in out
    assert out == run(capsys, "bench", "compare", "--help")[1]
