"""Settings are complete, documented and checked against each other before anything starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tgi.config import Batching, Config, Http, Limits, Model, Telemetry, flags
from tgi.errors import ConfigError

SECTIONS = (Model, Limits, Batching, Http, Telemetry)


def test_the_defaults_are_a_valid_configuration() -> None:
    Config()


def test_every_field_is_a_flag_with_help() -> None:
    for section in SECTIONS:
        assert len(flags(section)) == len(dataclasses.fields(section))
        for field, details in flags(section):
            assert details.help, field.name
            assert not details.help.endswith("."), field.name


def test_no_two_sections_share_a_field() -> None:
    names = [field.name for section in SECTIONS for field, _ in flags(section)]
    assert len(names) == len(set(names))


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().http.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "sections",
    [
        {"limits": Limits(max_input_tokens=8, max_total_tokens=8)},
        {"limits": Limits(max_total_tokens=9), "batching": Batching(max_batch_total_tokens=8)},
        {"batching": Batching(max_batch_prefill_tokens=9, max_batch_total_tokens=8)},
        {"batching": Batching(cuda_memory_fraction=1.5)},
        {"limits": Limits(max_concurrent_requests=0)},
        {"limits": Limits(max_stop_sequences=-1)},
        {"http": Http(port=70_000)},
        {"http": Http(step_timeout=float("nan"))},
        {"model": Model(num_shard=2)},
        {"model": Model(quantize="gptq")},
        {"model": Model(quantize="int8", dtype="float16")},
    ],
)
def test_values_that_cannot_work_are_refused_with_a_hint(sections: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config(**sections)  # type: ignore[arg-type]
    assert refusal.value.hint


def test_values_that_mean_off_are_no_request_for_a_missing_feature() -> None:
    Config(model=Model(num_shard=1, sharded=False, speculate=0), batching=Batching(cuda_graphs="0"))


@pytest.mark.parametrize(
    ("model", "http", "named"),
    [
        ({"dtype": "float16", "quantize": "gptq"}, {}, "`--dtype float16` and `--quantize gptq` exclude each other"),
        ({"quantize": "exl2", "num_shard": 2}, {}, "one shard only"),
        ({"sharded": True, "num_shard": 1}, {}, "2 or more. Given: 1"),
        ({"lora_adapters": "a,b@c@d"}, {}, "`b@c@d` has two"),
        ({"lora_adapters": "a=b=c"}, {}, "`a=b=c` has two"),
        ({}, {"ngrok": True, "ngrok_edge": "x"}, "needs `--ngrok-authtoken` and `--ngrok-edge`"),
        ({"num_shard": 0}, {}, "`--num-shard 0`: there is no fewer than one"),
    ],
)
def test_what_tgis_launcher_refuses_is_refused(model: dict[str, Any], http: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config(model=Model(**model), http=Http(**http))
    assert named in refusal.value.message
    assert refusal.value.hint


def test_bitsandbytes_may_have_a_type_of_its_own() -> None:
    with pytest.raises(ConfigError) as refusal:
        Config(model=Model(dtype="float16", quantize="bitsandbytes-nf4"))
    assert "exclude" not in refusal.value.message


def test_pretty_lines_are_not_json() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        Config(telemetry=Telemetry(json_output=True, log_format="pretty"))
