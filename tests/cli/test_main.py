"""The group answers at once, lists what exists and says what to do about everything else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.help_pages import file_of
from tgi import __version__
from tgi.cli import main as cli

HELP = file_of("tgi").read_text(encoding="utf-8")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, program: str = "main") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one of the console scripts."""
    with pytest.raises(SystemExit) as end:
        getattr(cli, program)(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_tgi_alone_shows_a_short_help(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert run(capsys, *arguments) == (0, HELP, "")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_printed(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run(capsys, flag) == (0, f"tgi {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["download", "--help"],
        ["env", "--help"],
        ["bench", "--help"],
        ["serve", "--prot", "1"],
    ],
)
def test_help_and_usage_errors_import_neither_torch_nor_the_server(arguments: list[str]) -> None:
    heavy = ("torch", "transformers", "aiohttp", "tokenizers", "huggingface_hub", "numpy", "rich", "tgi.server")
    code = (
        "import sys\nfrom tgi.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
        f"assert {arguments[0]!r} != '--help' or 'tgi.cli.serve' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_listed_command_exists_and_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        assert "Examples:" in out
        assert max(len(line) for line in out.splitlines()) <= 80
    for name in cli.SERVER_COMMANDS:
        code, out, _ = run(capsys, name, "--help", program="server")
        assert code == 0
        assert "Examples:" in out


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ("srve", 2, ["unknown command `srve`", "did you mean `serve`?"]),
        ("xyzzy", 2, ["unknown command `xyzzy`", "see `tgi --help`"]),
        ("quantize m out", 1, ["`tgi quantize` is not available yet", "FILE.gguf"]),
        ("bench http://127.0.0.1:9", 1, ["nobody answers at `http://127.0.0.1:9`", "connection refused", "tgi serve"]),
        ("serve --modle-id x", 2, ["unknown option `--modle-id`", "did you mean `--model-id`?"]),
        ("serve --max_totl_tokens 1", 2, ["unknown option `--max-totl-tokens`", "did you mean `--max-total-tokens`?"]),
        ("serve --port abc", 2, ["`--port`", "`abc`", "integer", "see `tgi serve --help`"]),
        ("serve --dtype float17", 2, ["`float17`", "did you mean `float16`?"]),
        ("serve --port", 2, ["`--port`", "requires an argument", "see `tgi serve --help`"]),
        ("serve some/model", 2, ["`some/model`", "did you mean `--model-id some/model`?"]),
        ("serve --json-output=true", 2, ["`--json-output`", "does not take a value"]),
        ("serve --quantize eetq", 1, ["`--quantize eetq`", "not available yet", ".gguf"]),
        ("serve --num-shard 2", 1, ["`--num-shard 2`", "not available yet", "use 1"]),
        ("serve --max-input-tokens 9 --max-total-tokens 9", 1, ["9 and 9", "--max-input-tokens 8"]),
        ("--max-input-tokens 9 --max-total-tokens 9", 1, ["9 and 9"]),
        ("serve --log-level chatty", 1, ["`chatty`", "debug, info, warn or error"]),
    ],
)
def test_a_mistake_is_answered_with_its_value_and_a_next_step(
    capsys: pytest.CaptureFixture[str], arguments: str, code: int, shown: list[str]
) -> None:
    actual, out, err = run(capsys, *arguments.split())
    assert actual == code
    assert out == ""
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert len(err.splitlines()) <= 5
    assert "Traceback" not in err
    for part in shown:
        assert part in err


def test_a_bad_value_in_the_environment_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "http")
    code, _, err = run(capsys, "serve")
    assert code == 2
    assert "`http`" in err
    assert "`PORT` is set in the environment" in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "serve", "--debug", "--num-shard", "2")
    assert "Traceback" in err
    assert err.splitlines()[-2].startswith("error: ")


def test_the_launcher_takes_bare_flags(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--num-shard", "2", program="launcher")
    assert code == 1
    assert "`--num-shard 2`" in err
    assert "text-generation-launcher" in run(capsys, "--help", program="launcher")[1]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("serve", "missing argument `MODEL_ID`"),
        ("serve m --sharded", "not available yet"),
        ("serve m --quantize gptq --logger-level INFO", "not available yet"),
        ("serve m --logger-level loud", "`loud`"),
        ("quantize m out", "not available yet"),
    ],
)
def test_the_model_server_takes_its_own_arguments(
    capsys: pytest.CaptureFixture[str], arguments: str, shown: str
) -> None:
    code, _, err = run(capsys, *arguments.split(), program="server")
    assert code in (1, 2)
    assert shown in err


def test_the_name_of_tgis_benchmark_runs_ours(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "-t", "model", "-b", "0", program="benchmark")
    assert code == 2
    assert "`--batch-size`" in err
    assert "text-generation-benchmark --help" in err


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m tgi serve --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
