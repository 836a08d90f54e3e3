"""`tgi plan` agrees with the server that is started with the same flags, and loads nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.live import LiveServer
from tests.real_model import default_gguf
from tests.tiny_models import tiny_model
from tgi.cli.main import main

LIMITS = ("--max-batch-total-tokens", "1000", "--max-total-tokens", "600", "--max-batch-prefill-tokens", "100")


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, _ = plan(capsys, *arguments, "--json")
    assert code == 0
    answer: dict[str, Any] = json.loads(out)
    return answer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny"), max_position_embeddings=4096))


def test_the_plan_is_what_the_server_then_says(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model-id", str(default_gguf()), *LIMITS)
    planned = found(capsys, *arguments)
    with LiveServer(*arguments, "-v") as server:
        info = server.get("/info")
        told = "".join(server.lines)
    for name in ("max_input_tokens", "max_total_tokens", "max_batch_total_tokens", "max_batch_size",
                 "max_concurrent_requests"):  # fmt: skip
        assert info[name] == planned["limits"][name], name
    assert info["max_step_tokens"] == planned["limits"]["max_batch_prefill_tokens"]
    assert (info["model_dtype"], info["model_device_type"]) == (planned["dtype"], planned["device"])
    for choice in planned["choices"]:
        assert f"chosen    {choice['name']} {choice['value']}: {choice['reason']}" in told
    assert f"weights {planned['memory']['weights'] / (1 << 20):.0f} MiB" in told


def test_the_ledger_adds_up(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    memory = found(capsys, "--model-id", tiny)["memory"]
    assert memory["total"] == memory["weights"] + memory["activations"] + memory["kv_cache"]
    assert memory["kv_token"] * 16 == memory["kv_block"]
    assert memory["total"] <= memory["available"]


def test_the_tokenizers_longest_sequence_is_a_limit(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    answer = found(capsys, "--model-id", tiny)
    assert answer["limits"]["max_total_tokens"] == 1024
    assert {"name": "max-total-tokens", "value": "1024", "reason": "the tokenizer's model_max_length"} in answer[
        "choices"
    ]


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    code, out, err = plan(capsys, "--model-id", tiny)
    assert code == 0
    assert "it fits" in out
    assert "max-total-tokens" in out
    assert err == f"reading the headers of {Path(tiny).resolve()} ...\n"


def test_a_model_that_does_not_fit_ends_with_17(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    arguments = ("--model-id", tiny, "--max-batch-total-tokens", "999999999999")
    code, out, err = plan(capsys, *arguments)
    assert (code, out) == (17, "")
    assert "not enough memory" in err
    code, out, _ = plan(capsys, *arguments, "--json")
    assert code == 17
    assert json.loads(out)["fits"] is False


def test_a_model_that_is_elsewhere_is_not_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = plan(capsys, "--model-id", "owner/no-model", "--huggingface-hub-cache", str(tmp_path))
    assert code == 12
    assert "hint: fetch it first: tgi download owner/no-model" in err
