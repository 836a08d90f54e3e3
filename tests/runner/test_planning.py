"""A survey says what a loaded runner would, and reads no weight."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from tests.tiny_models import tiny_model
from tgi.checkpoint import open_checkpoint
from tgi.config import Batching, Config, Model
from tgi.errors import ModelError
from tgi.runner.planning import Headers, kernels_here, survey
from tgi.runner.runner import ModelRunner


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), request.param, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
def test_a_survey_equals_the_runner(model: Path, dtype: str | None) -> None:
    config = Config(model=Model(dtype=dtype), batching=Batching(max_batch_total_tokens=512))
    found = survey(config, model)
    runner = ModelRunner.load(open_checkpoint(model), config=config)
    ledger = msgspec.to_builtins(runner.memory)
    for varying in (ledger, found["memory"]):
        del varying["available"]
    assert found.pop("memory") == ledger
    assert found == {name: getattr(runner, name) for name in found}


def test_matrices_that_would_be_converted_are_not_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model(tmp_path, dtype=torch.bfloat16))
    headers = Headers(checkpoint, "float32")
    name = "model.embed_tokens.weight"
    assert not headers.tensor(name).data.any()
    assert headers.tensor(name).data.nbytes == 2 * checkpoint.tensor(name).data.nbytes
    assert headers.tensor("model.norm.weight").data.any()
    assert headers.names() == checkpoint.names()


def test_what_does_not_fit_is_refused_as_the_engine_does(model: Path) -> None:
    with pytest.raises(ModelError) as refusal:
        survey(Config(batching=Batching(max_batch_total_tokens=10**12)), model)
    assert refusal.value.exit_code == 17


def test_the_kernels_of_this_machine_are_named() -> None:
    found = kernels_here()
    assert found["kernels"] in ("torch", "portable", "avx2", "avx512", "avx512_bf16")
    assert found["threads"] >= 1
