"""SageMaker's names reach the start-up as TGI's entry script handed them on."""

from __future__ import annotations

import os

import pytest

from tgi.cli.main import main
from tgi.cli.sagemaker import VARIABLES
from tgi.config import Config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Settings of every start-up; the environment is put back afterwards."""
    calls: list[Config] = []

    def run(config: Config, warnings: list[str], **_: object) -> int:
        calls.append(config)
        return 0

    monkeypatch.setattr("tgi.cli.launch.run", run)
    monkeypatch.setattr("tgi.log.configure", lambda **_: None)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return calls


@pytest.mark.parametrize(
    ("words", "port"), [([], 8080), (["serve"], 8080), (["--port", "81"], 81), (["serve", "--json-output"], 8080)]
)
def test_the_model_and_its_revision_are_served_on_8080(started: list[Config], words: list[str], port: int) -> None:
    os.environ |= {"HF_MODEL_ID": "m", "HF_MODEL_REVISION": "r", "SM_NUM_GPUS": "1", "HF_MODEL_QUANTIZE": " "}
    os.environ |= {"HF_MODEL_TRUST_REMOTE_CODE": "true", "MAX_BEST_OF": "7"}
    with pytest.raises(SystemExit) as end:
        main(["sagemaker", *words])
    assert end.value.code == 0
    (config,) = started
    assert (config.model.model_id, config.model.revision, config.http.port) == ("m", "r", port)
    assert (config.model.num_shard, config.model.quantize, config.limits.max_best_of) == (1, None, 7)
    assert config.model.trust_remote_code


@pytest.mark.parametrize(("name", "value"), [("SM_NUM_GPUS", "4"), ("HF_MODEL_QUANTIZE", "gptq")])
def test_what_cannot_be_honoured_is_refused(
    started: list[Config], capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    os.environ |= {"HF_MODEL_ID": "m", name: value}
    with pytest.raises(SystemExit) as end:
        main(["sagemaker"])
    assert (end.value.code, started) == (1, [])
    assert f"`{VARIABLES[name]}` is set in the environment" in capsys.readouterr().err


def test_without_a_model_it_does_not_start(started: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sagemaker"])
    assert (end.value.code, started) == (1, [])
    assert "`HF_MODEL_ID` is not set" in capsys.readouterr().err
