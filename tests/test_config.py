"""Settings are complete, documented and checked against each other before anything starts."""

from __future__ import annotations

import dataclasses

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
