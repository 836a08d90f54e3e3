"""What people get wrong, and what they are told: `python -m tests.cli.test_mistakes` prints the answers anew.

Each answer is in mistakes.txt: at most five lines, with the offending value and a next step, and never a traceback.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ANSWERS = Path(__file__).with_name("mistakes.txt")
ROOT = Path(__file__).parents[2]
SAYS_WHAT_TO_DO = re.compile(
    r"\b(see|did you mean|use|give|check|fetch|set|unset|keep|leave|start|stop|choose|name|correct|write|change|install"
    r"|run|save|free|put|build|lists|wait|add|serve|delete|merge|remove|ask|is set in)\b",
)
Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class Mistake:
    """A command line with variables before it, the word that its answer must name, and what is in the folder."""

    typed: str
    named: str
    prepare: Prepare = lambda folder: None


def holding(name: str, content: str | bytes) -> Prepare:
    """A folder with one file."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def model_folder(config: str) -> Prepare:
    """A folder `model` with this configuration, weights without a tensor, and no tokenizer."""

    def prepare(folder: Path) -> None:
        holding("model/config.json", config)(folder)
        holding("model/model.safetensors", (2).to_bytes(8, "little") + b"{}")(folder)

    return prepare


MISTAKES = [
    # commands and flags
    Mistake("tgi srve", "srve"),
    Mistake("tgi xyzzy", "xyzzy"),
    Mistake("tgi quantize model out", "quantize"),
    Mistake("tgi serve --modle-id x", "--modle-id"),
    Mistake("tgi serve --max_totl_tokens 1", "--max-totl-tokens"),
    Mistake("tgi serve some/model", "some/model"),
    Mistake("tgi serve --port", "--port"),
    Mistake("tgi serve --json-output=true", "--json-output"),
    Mistake("tgi serve -q -v", "--quiet"),
    Mistake("tgi print-schema json", "json"),
    Mistake("text-generation-server serve", "MODEL_ID"),
    # values
    Mistake("tgi serve --port abc", "abc"),
    Mistake("tgi serve --port 65536", "65536"),
    Mistake("tgi serve --dtype float17", "float17"),
    Mistake("tgi serve --quantize gtpq", "gtpq"),
    Mistake("tgi serve --log-level chatty", "chatty"),
    Mistake("tgi serve --log-format xml", "xml"),
    Mistake("tgi serve --log-format pretty --json-output", "--log-format pretty"),
    Mistake("tgi serve --cuda-memory-fraction 2", "2"),
    Mistake("tgi serve --hostname no.such.host.invalid", "no.such.host.invalid"),
    Mistake("tgi serve --validation-workers 0", "0"),
    Mistake("tgi serve --max-batch-size 0", "0"),
    Mistake("tgi serve --watermark-gamma 1", "1"),
    Mistake("tgi serve --aip-predict-route predict", "predict"),
    # settings that contradict each other
    Mistake("tgi launch --max-input-tokens 9 --max-total-tokens 9", "9"),
    Mistake("tgi launch --max-input-tokens 9 --max-input-length 9", "--max-input-length"),
    Mistake("tgi launch --max-total-tokens 65 --max-batch-total-tokens 64", "65"),
    Mistake("tgi launch --max-batch-prefill-tokens 65 --max-batch-total-tokens 64", "65"),
    Mistake("tgi launch --num-shard 2", "--num-shard 2"),
    Mistake("tgi launch --num-shard 0", "--num-shard 0"),
    Mistake("tgi launch --sharded true", "--sharded"),
    Mistake("tgi launch --sharded true --num-shard 1", "1"),
    Mistake("tgi launch --dtype float16 --quantize awq", "--quantize awq"),
    Mistake("tgi launch --quantize exl2 --num-shard 2", "exl2"),
    Mistake("tgi launch --lora-adapters one@a@b,two", "one@a@b"),
    Mistake("tgi launch --ngrok", "--ngrok"),
    Mistake("tgi launch --ngrok --ngrok-authtoken t --ngrok-edge e", "--ngrok"),
    Mistake("text-generation-launcher --speculate 2", "--speculate 2"),
    # the environment and tgi.toml
    Mistake("PORT=http tgi serve", "PORT"),
    Mistake("TRUST_REMOTE_CODE=maybe tgi serve", "maybe"),
    Mistake("MAX_TOTAL_TOKENS=4 tgi serve --max-input-tokens 5", "MAX_TOTAL_TOKENS"),
    Mistake("tgi config show", "prot", holding("tgi.toml", "prot = 1\n")),
    Mistake("tgi serve", "line 2", holding("tgi.toml", "port = 1\nhostname = = 2\n")),
    Mistake("tgi serve", "http", holding("tgi.toml", 'port = "http"\n')),
    Mistake("tgi config shw", "shw"),
    Mistake("tgi sagemaker", "HF_MODEL_ID"),
    # models and files
    Mistake("tgi serve --port 0 --model-id ./nowhere.gguf", "./nowhere.gguf"),
    Mistake("tgi serve --port 0 --model-id nobody/nothing", "nobody/nothing"),
    Mistake("tgi plan --model-id nobody/nothing", "nobody/nothing"),
    Mistake("tgi plan --model-id model.gguf", "model.gguf", holding("model.gguf", b"GGUF" + bytes(4))),
    Mistake("tgi plan --model-id empty", "empty", holding("empty/readme.md", "")),
    Mistake("tgi plan --model-id pickled", "pickled", holding("pickled/pytorch_model.bin", "")),
    Mistake("tgi plan --model-id model", "no_such_type", model_folder('{"model_type": "no_such_type"}')),
    Mistake("tgi plan --model-id model", "hidden_size", model_folder('{"model_type": "llama"}')),
    Mistake("tgi plan --model-id model", "config.json", model_folder("{not json")),
    Mistake("tgi plan --weights-cache-override nowhere", "nowhere"),
    Mistake("tgi download nobody/nothing", "nobody/nothing"),
    Mistake("tgi download ./nowhere", "nowhere"),
    Mistake("tgi cache rm nobody/nothing", "nobody/nothing"),
    Mistake("tgi cache verify nobody/nothing", "nobody/nothing"),
    # chat, bench and the rest
    Mistake("tgi chat --url http://127.0.0.1:1 hi", "127.0.0.1:1"),
    Mistake("tgi chat --url ftp://host hi", "ftp://host"),
    Mistake("tgi bench http://127.0.0.1:1", "127.0.0.1:1"),
    Mistake("tgi bench --slo speed=1s http://127.0.0.1:1", "speed"),
    Mistake("tgi bench compare a.json b.json", "a.json"),
    Mistake("tgi completion tcsh", "tcsh"),
    Mistake("tgi man sevre", "sevre"),
]
PROGRAMS = {"tgi": "main", "text-generation-launcher": "launcher", "text-generation-server": "server"}


def answer(mistake: Mistake) -> str:
    """The exit code and stderr of a mistake made in a folder, and an environment, of its own."""
    words = shlex.split(mistake.typed)
    variables = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
    program, *arguments = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    code = f"from tgi.cli.main import {PROGRAMS[program]} as run; run({arguments!r})"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        mistake.prepare(folder)
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": place, "XDG_CONFIG_HOME": place,
            "XDG_CACHE_HOME": f"{place}/cache", "HF_HUB_OFFLINE": "1", **variables,
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
        said = "\n".join(line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:", "warning:"))
                         or "Traceback" in line)  # fmt: skip
        said = said.replace(str(folder), ".").replace(place, ".")
    assert done.stdout == "", done.stdout
    return f"$ {mistake.typed}\n{said}\n[{done.returncode}]\n"


def all_answers() -> list[str]:
    """The answers as they are on file, in the order of MISTAKES."""
    return [f"$ {part}" for part in ANSWERS.read_text(encoding="utf-8").split("$ ")[1:]]


def test_there_are_enough_of_them_and_an_answer_for_each() -> None:
    assert len(MISTAKES) >= 40
    assert [text.splitlines()[0] for text in all_answers()] == [f"$ {mistake.typed}" for mistake in MISTAKES]


@pytest.mark.parametrize("index", range(len(MISTAKES)), ids=[mistake.typed for mistake in MISTAKES])
def test_a_mistake_is_answered_as_on_file(index: int) -> None:
    mistake, expected = MISTAKES[index], all_answers()[index]
    assert answer(mistake) == expected, "run `python -m tests.cli.test_mistakes > tests/cli/mistakes.txt` and look"


@pytest.mark.parametrize("index", range(len(MISTAKES)), ids=[mistake.typed for mistake in MISTAKES])
def test_an_answer_is_short_names_the_value_and_says_what_to_do(index: int) -> None:
    said, code = all_answers()[index].split("\n", 1)[1].rstrip("\n").rsplit("\n", 1)
    lines = said.splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[0].startswith("error: ")
    assert MISTAKES[index].named in said
    assert any(line.startswith("hint: ") and SAYS_WHAT_TO_DO.search(line) for line in lines), said
    assert "Traceback" not in said
    assert code != "[0]"


def test_a_busy_port_is_named_with_the_flag_that_changes_it() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("serve", "launch"):
            said = answer(Mistake(f"tgi {command} --port {port}", str(port)))
            assert f"error: port {port} is in use\n" in said
            assert "--port" in said.split("hint: ")[1]
            assert "[11]" in said


if __name__ == "__main__":
    print("".join(answer(mistake) for mistake in MISTAKES), end="")
