"""The start is told line by line, and ends with everything needed to use the server."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from tgi.cli import startup
from tgi.cli.startup import Story
from tgi.config import Config, Http, Model, Telemetry
from tgi.engine.messages import EngineReady, MemoryLedger
from tgi.hub.files import ModelFiles
from tgi.runner.ledger import Choice

FILES = ModelFiles("owner/model", "0123456789abcdef", Path("/models/model.gguf"), Path("/models"))
ENGINE = EngineReady(
    model_type="llama", dtype="float32", device="cpu", quantize=None, kernels="avx2", vocab_size=100, num_blocks=512,
    block_size=16, max_total_tokens=2048, max_step_tokens=256, max_rows=128, load_s=0.5, warmup_s=0.25,
    memory=MemoryLedger(
        weights=90 << 20, activations=10 << 20, kv_block=1 << 20, kv_cache=512 << 20, available=4 << 30
    ),
)  # fmt: skip
TOLD = """\
  model     owner/model @ 0123456789ab (1.00 s)
  files     /models/model.gguf
  engine    llama, float32 on cpu, avx2 kernels
  faster    --quantize int8: close to exact, much less time for prompts and many requests at once
  start     weights 0.50 s, warm-up 0.25 s, all 1.00 s
  memory    weights 90 MiB + KV cache 512 MiB + activations 10 MiB = 612 MiB of 4.0 GiB
  kv cache  8,192 tokens in blocks of 16
  limits    prompt 2,047, prompt and answer 2,048 tokens; step 256 tokens; 128 requests at once, 128 admitted
  api key   none: every request is answered
ready in 3.50 s: http://127.0.0.1:3000
try: curl -N http://127.0.0.1:3000/generate_stream -H 'Content-Type: application/json' -d \
'{"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}}'
Connected
"""


def told(config: Config, engine: EngineReady = ENGINE) -> str:
    """Everything a start says on a console, with a clock that ticks once a look."""
    stream = io.StringIO()
    console = Console(file=stream, soft_wrap=True, highlight=False)
    story = Story(config, console, started_s=-0.5, clock=map(float, count()).__next__)
    story.found(FILES)
    story.ready(engine, "http://127.0.0.1:3000")
    return stream.getvalue()


def test_the_whole_story_of_a_local_server() -> None:
    assert told(Config(http=Http(hostname="127.0.0.1"))) == TOLD


@pytest.mark.parametrize("chosen", [Model(quantize="int8"), Model(dtype="bfloat16")])
def test_who_chose_the_arithmetic_is_not_told_of_another(chosen: Model) -> None:
    assert "faster" in told(Config())
    assert "faster" not in told(Config(model=chosen))
    assert "faster" not in told(Config(), replace(ENGINE, kernels="torch"))


def test_the_last_line_is_the_one_scripts_wait_for() -> None:
    assert told(Config()).splitlines()[-1] == "Connected"


def test_a_server_open_to_other_machines_without_a_key_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    told(Config())
    assert "warning: `--hostname 0.0.0.0`" in capsys.readouterr().err
    told(Config(http=Http(api_key="secret")))
    assert capsys.readouterr().err == ""


def test_the_api_key_is_not_told_but_its_place_in_the_example_is() -> None:
    text = told(Config(http=Http(api_key="secret")))
    assert "secret" not in text
    assert "Authorization: Bearer YOUR_KEY" in text


def test_the_example_is_one_command_a_shell_reads() -> None:
    line = next(line for line in told(Config()).splitlines() if line.startswith("try: "))
    words = shlex.split(line.removeprefix("try: "))
    assert words[0] == "curl"
    assert json.loads(words[-1])["parameters"]["max_new_tokens"] == 20


def test_with_json_output_every_line_is_a_log_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tgi.cli"):
        assert told(Config(telemetry=Telemetry(json_output=True))) == ""
    messages = [record.getMessage() for record in caplog.records]
    assert messages[-1] == "Connected"
    assert any(message.startswith("ready in") for message in messages)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_the_reason_of_every_limit_is_told_on_demand() -> None:
    memory = replace(ENGINE.memory, choices=(Choice("max-total-tokens", "4096", "the model's longest sequence"),))
    stream = io.StringIO()
    story = Story(Config(), Console(file=stream, soft_wrap=True, highlight=False), verbosity=1)
    story.ready(replace(ENGINE, memory=memory), "http://127.0.0.1:3000")
    assert "chosen    max-total-tokens 2048: the tokenizer's model_max_length" in stream.getvalue()
    assert "chosen    max-input-tokens 2047: one less than" in stream.getvalue()


@pytest.mark.parametrize(("asked", "why"), [(True, "`--disable-custom-kernels` was given"), (False, "not built")])
def test_who_computes_without_native_kernels_is_told_what_that_costs(
    asked: bool, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(http=Http(hostname="127.0.0.1"), model=Model(disable_custom_kernels=asked))
    told(config, replace(ENGINE, kernels="torch"))
    said = capsys.readouterr().err
    assert why in said
    assert "many times slower" in said
    assert ("compiler" in said) is not asked
    told(config)
    assert capsys.readouterr().err == ""


def test_a_quiet_start_tells_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    story = Story(Config(), Console(file=stream), verbosity=-1)
    story.ready(ENGINE, "http://127.0.0.1:3000")
    assert stream.getvalue() == ""
    assert capsys.readouterr().err.startswith("warning: ")


def test_whoever_waits_is_told_when_the_server_is_ready() -> None:
    calls: list[str] = []
    story = Story(Config(), Console(file=io.StringIO()), announce=lambda: calls.append("ready"))
    story.ready(ENGINE, "http://127.0.0.1:3000")
    assert calls == ["ready"]


@pytest.mark.parametrize(("running", "shown"), [(0, "nothing runs"), (3, "up to 90 s for 3 running requests; again")])
def test_a_stop_says_what_it_waits_for(running: int, shown: str) -> None:
    stream = io.StringIO()
    Story(Config(), Console(file=stream, soft_wrap=True)).stopping(running)
    assert f"stopping: {shown}" in stream.getvalue()


def test_the_environment_is_shown_on_demand() -> None:
    stream = io.StringIO()
    Story(Config(), Console(file=stream, soft_wrap=True)).environment()
    assert "python" in stream.getvalue()


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    """Signals do what they do by default during the test: a shell's background job has SIGINT ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_model_is_fetched_ends_the_process_with_code_0(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(startup, "locate", lambda *_, **__: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:
        startup.run(Config(http=Http(port=0)), [])
    assert end.value.code == 0


@pytest.mark.usefixtures("signals_as_before")
def test_a_signal_that_was_ignored_on_purpose_stays_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(startup, "serve", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP) or 0)
    assert startup.run(Config(model=Model(model_id=str(tmp_path)), http=Http(port=0)), []) == 0


@pytest.mark.usefixtures("signals_as_before")
def test_the_model_and_the_settings_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config(model=Model(model_id=str(tmp_path)), http=Http(port=0))
    seen: list[object] = []
    monkeypatch.setattr(startup, "serve", lambda *arguments, **_: seen.extend(arguments) or 3)
    assert startup.run(config, []) == 3
    assert seen[0] == config
    assert isinstance(seen[1], ModelFiles)
    assert seen[1].folder == tmp_path


def test_the_engine_starts_before_the_server_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tgi.cli import startup\nfrom tgi.config import Config, Http, Model\n"
        "from tgi.engine import process\n"
        "def start(config, path):\n"
        "    print([name for name in ('aiohttp', 'tokenizers', 'jinja2', 'torch') if name in sys.modules])\n"
        "    sys.exit(7)\n"
        "process.start = start\n"
        f"startup.run(Config(model=Model(model_id={str(tmp_path)!r}), http=Http(port=0)), [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "[]\n"), done.stderr
