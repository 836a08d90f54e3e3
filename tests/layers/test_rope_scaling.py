"""Frequencies of every kind of RoPE are those of transformers, from either spelling of config.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tgi.errors import ModelError
from tgi.layers.rope_scaling import KINDS, RopeConfig, override_rope

HEAD_DIM, POSITIONS = 64, 4096
ORIGINAL = {"original_max_position_embeddings": 1024}
LISTS = {"short_factor": [1 + 0.01 * i for i in range(32)], "long_factor": [2 + 0.3 * i for i in range(32)]}
KIND_SETTINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.5},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
    {"rope_type": "yarn", "factor": 4.0, **ORIGINAL},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.7, "beta_fast": 20, "beta_slow": 3, **ORIGINAL},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False, **ORIGINAL},
    {"rope_type": "longrope", **LISTS, **ORIGINAL},
    {"rope_type": "longrope", "factor": 9.0, **LISTS, **ORIGINAL},
    {"rope_type": "longrope", "attention_factor": 1.3, **LISTS, **ORIGINAL},
    {"rope_type": "proportional", "partial_rotary_factor": 0.25},
    {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
]


def rope(settings: dict[str, Any], **config: Any) -> RopeConfig:
    return RopeConfig.from_json({"rope_parameters": settings, **config}, head_dim=HEAD_DIM, max_positions=POSITIONS)


def reference(settings: dict[str, Any], length: int) -> tuple[torch.Tensor, float]:
    config = transformers.LlamaConfig(
        hidden_size=4 * HEAD_DIM, num_attention_heads=4, max_position_embeddings=POSITIONS,
        rope_parameters={"rope_theta": 5000.0, **settings},
    )  # fmt: skip
    frequencies, factor = ROPE_INIT_FUNCTIONS[settings["rope_type"]](config, seq_len=length)
    return frequencies, factor


@pytest.mark.parametrize("settings", KIND_SETTINGS, ids=lambda settings: settings["rope_type"])
@pytest.mark.parametrize("length", [900, 1025, 3000, 10_000])
def test_frequencies_are_those_of_transformers(settings: dict[str, Any], length: int) -> None:
    ours = rope({"rope_theta": 5000.0, **settings})

    frequencies, factor = ours.frequencies(ours.variant(length))

    expected, expected_factor = reference(settings, length)
    np.testing.assert_allclose(frequencies, expected, rtol=2e-6, atol=0)
    assert factor == pytest.approx(expected_factor)


def test_default_frequencies_are_powers_of_the_base() -> None:
    frequencies, factor = rope({"rope_theta": 100.0}).frequencies()

    np.testing.assert_allclose(frequencies, 100.0 ** (-np.arange(0, 64, 2) / 64), rtol=1e-6)
    assert factor == 1.0


@pytest.mark.parametrize("settings", KIND_SETTINGS, ids=lambda settings: settings["rope_type"])
def test_the_old_spelling_says_the_same(settings: dict[str, Any]) -> None:
    kind = {"type": settings["rope_type"]}
    scaling = {name: value for name, value in settings.items() if name != "rope_type"} | kind
    old = RopeConfig.from_json(
        {"rope_theta": 5000.0, "rope_scaling": scaling}, head_dim=HEAD_DIM, max_positions=POSITIONS
    )
    new = rope({"rope_theta": 5000.0, **settings})

    assert np.array_equal(old.frequencies(1)[0], new.frequencies(1)[0])
    assert old.frequencies(1)[1] == new.frequencies(1)[1]


def test_su_is_an_old_name_of_longrope() -> None:
    assert rope({"type": "su", **LISTS, **ORIGINAL}).kind == "longrope"


def test_an_original_length_beside_the_settings_wins() -> None:
    assert rope({"type": "longrope", **LISTS, **ORIGINAL}, original_max_position_embeddings=99).original_max == 99
    assert rope({"type": "yarn", "factor": 2.0}).original_max == POSITIONS


def test_only_length_dependent_kinds_have_variants() -> None:
    within, beyond = POSITIONS, POSITIONS + 1
    variants = {
        settings["rope_type"]: (rope(settings).variant(within), rope(settings).variant(beyond))
        for settings in KIND_SETTINGS
    }

    assert variants.pop("dynamic") == (0, beyond)
    assert variants.pop("longrope") == (1, 1)  # the original length is 1024
    assert set(variants.values()) == {(0, 0)}
    assert rope({"rope_type": "longrope", **LISTS, **ORIGINAL}).variant(1024) == 0


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({}, 4096),
        ({"rope_type": "linear", "factor": 2.0}, 8192),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 8.0, **ORIGINAL}, 8192),
        ({"rope_type": "yarn", "factor": 2.0, **ORIGINAL}, 4096),
        ({"rope_type": "llama3", "factor": 8.0, **ORIGINAL}, 4096),
    ],
)
def test_scaling_lengthens_what_the_model_can_read(settings: dict[str, Any], longest: int) -> None:
    assert rope(settings).longest == longest


def test_a_part_of_each_head_may_turn() -> None:
    ours = rope({"partial_rotary_factor": 0.25})

    assert ours.dim == 16
    assert len(ours.frequencies()[0]) == 8


def test_the_command_line_replaces_the_scaling_and_keeps_the_base() -> None:
    config = {"rope_parameters": {"rope_theta": 77.0, **KIND_SETTINGS[3]}, "hidden_size": 5}

    changed = RopeConfig.from_json(override_rope(config, "dynamic", 3.0), head_dim=8, max_positions=10)

    assert (changed.kind, changed.factor, changed.theta) == ("dynamic", 3.0, 77.0)
    assert override_rope(config, None, None) == config
    assert override_rope(config, None, 2.0)["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert override_rope(config, "dynamic", None)["rope_scaling"] == {"rope_type": "dynamic", "factor": 1.0}


@pytest.mark.parametrize(
    ("settings", "named", "exit_code"),
    [
        ({"rope_type": "mrope"}, "`mrope`", 18),
        ({"rope_type": "linear"}, "lacks its `factor`", 16),
        ({"rope_theta": -1.0}, "`rope_theta` must be a positive number", 16),
        ({"rope_type": "linear", "factor": "2"}, "`factor` must be a positive number", 16),
        ({"partial_rotary_factor": 0.01}, "cannot rotate 0 of 64", 16),
        ({"full_attention": {}}, "differ between layer types", 18),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, Any], named: str, exit_code: int) -> None:
    with pytest.raises(ModelError) as caught:
        rope(settings)

    assert named in caught.value.message
    assert caught.value.exit_code == exit_code


def test_lists_of_another_length_are_refused() -> None:
    with pytest.raises(ModelError, match="`long_factor` must list 32 numbers"):
        rope({"rope_type": "longrope", "short_factor": LISTS["short_factor"], "long_factor": [1.0]}).frequencies(1)


def test_unknown_kinds_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError) as caught:
        rope({"rope_type": "spiral"})

    assert all(kind in str(caught.value.hint) for kind in KINDS)
