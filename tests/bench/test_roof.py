"""The hardware limit against the formulas worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.bench import example_results
from tgi.bench.results import MachineRoof
from tgi.bench.roof import ModelCost, bandwidth, model_cost, roof_decode, roof_prefill, roofs
from tgi.errors import ModelError

MACHINE = MachineRoof(bandwidth=1e9, float32_rate=100e9, integer_rate=200e9, measured_at="")
COST = ModelCost(
    weight_bytes=100e6, layer_parameters=40e6, head_parameters=10e6, expert_bytes=0, expert_share=1.0, kv_bytes=1000,
    attention_operations=100, integers=False, step_tokens=64,
)  # fmt: skip
CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
          "hidden_size": 16}  # fmt: skip


def write(folder: Path, config: dict[str, object], tensors: dict[str, tuple[int, ...]]) -> Path:
    save_file(
        {name: np.zeros(shape, dtype=np.float16) for name, shape in tensors.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_one_sequence_is_bound_by_memory() -> None:
    found = roof_decode(COST, MACHINE, sequences=1, context=1000)
    assert found.bound == "memory"
    assert found.bytes_per_token == 100e6 + 1000 * 1000
    assert found.roof_tokens_per_s == pytest.approx(1e9 / 101e6)
    assert found.operations_per_token == 2 * 50e6 + 1000 * 100


def test_many_sequences_are_bound_by_arithmetic() -> None:
    found = roof_decode(COST, MACHINE, sequences=1000, context=0)
    assert found.bound == "compute"
    assert found.roof_tokens_per_s == pytest.approx(100e9 / 100e6)
    quantized = roof_decode(replace(COST, integers=True), MACHINE, sequences=1000, context=0)
    assert quantized.roof_tokens_per_s == pytest.approx(200e9 / 100e6)


def test_what_a_cache_holds_is_read_at_the_cache_s_rate() -> None:
    large = replace(MACHINE, caches=((10_000_000, 8e9), (64_000_000, 4e9), (128_000_000, 1.1e9)))
    found = roof_decode(COST, large, sequences=1, context=0)
    assert (found.bound, found.roof_tokens_per_s) == ("cache", pytest.approx(4e9 / 100e6))
    found = roof_decode(COST, large, sequences=1, context=50_000)
    assert (found.bound, found.roof_tokens_per_s) == ("memory", pytest.approx(1.1e9 / 150e6))
    assert bandwidth(large, 5_000_000) == 8e9  # fewer bytes than were measured
    assert bandwidth(MACHINE, 5_000_000) == MACHINE.bandwidth
    # Steps of a prompt read the weights each: what they read together need not fit.
    assert roof_prefill(COST, replace(large, float32_rate=1e15), prompts=2, tokens=64).bound == "cache"


def test_a_prompt_reads_the_weights_once_a_step_and_needs_the_head_once() -> None:
    found = roof_prefill(COST, MACHINE, prompts=2, tokens=96)
    assert found.bytes_per_token * 192 == pytest.approx(3 * 100e6 + 192 * 1000)
    attention = 2 * 96 * 97 / 2 * 100
    assert found.operations_per_token * 192 == pytest.approx(2 * 192 * 40e6 + 2 * 2 * 10e6 + attention)
    assert found.batch == 64


def test_experts_are_read_as_far_as_they_are_used() -> None:
    cost = replace(COST, expert_bytes=80e6, expert_share=0.25)
    assert roof_decode(cost, MACHINE, sequences=1, context=0).bytes_per_token == 40e6
    assert roof_decode(cost, MACHINE, sequences=4, context=0).bytes_per_token * 4 == 100e6


def test_a_models_cost_is_what_its_files_say(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": (32, 16), "lm_head.weight": (32, 16), "model.norm.weight": (16,),
               "model.layers.0.self_attn.q_proj.weight": (16, 16)}  # fmt: skip
    cost = model_cost(write(tmp_path, CONFIG, tensors), kv_item_bytes=4)
    assert cost.head_parameters == 32 * 16
    assert cost.layer_parameters == 256
    assert cost.weight_bytes == 2 * (32 * 16 + 16 + 256)  # embeddings are looked up, not read
    assert cost.kv_bytes == 2 * 2 * 2 * 4 * 4
    assert cost.attention_operations == 4 * 2 * 4 * 4
    assert not cost.integers


def test_tied_embeddings_are_the_output_layer(tmp_path: Path) -> None:
    cost = model_cost(write(tmp_path, CONFIG, {"model.embed_tokens.weight": (32, 16)}))
    assert (cost.head_parameters, cost.weight_bytes) == (512, 1024)


def test_experts_count_by_their_share(tmp_path: Path) -> None:
    config = CONFIG | {"num_local_experts": 4, "num_experts_per_tok": 1}
    names = {f"model.layers.0.mlp.experts.{n}.w1.weight": (16, 16) for n in range(4)}
    cost = model_cost(write(tmp_path, config, {"model.embed_tokens.weight": (32, 16), **names}))
    assert (cost.layer_parameters, cost.expert_bytes, cost.expert_share) == (256, 2048, 0.25)


def test_a_configuration_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not tell layers"):
        model_cost(write(tmp_path, {"model_type": "x"}, {"a.weight": (2, 2)}))


def test_a_batch_is_judged_in_both_phases() -> None:
    step = example_results.batch_step(4)
    found = {roof.phase: roof for roof in roofs(step, COST, MACHINE)}
    assert step.batch is not None
    assert found["prefill"].tokens_per_s == step.batch.prefill_rate.p50
    assert found["decode"].percent == pytest.approx(
        100 * step.batch.decode_rate.p50 / found["decode"].roof_tokens_per_s
    )


def test_the_time_to_a_first_token_beside_others_is_no_prefill() -> None:
    phases = [[roof.phase for roof in roofs(example_results.step(streams), COST, MACHINE)] for streams in (1, 4)]
    assert phases == [["prefill", "decode"], ["decode"]]


def test_streams_that_decode_together_share_the_weights() -> None:
    alone, together = (roofs(example_results.step(streams), COST, MACHINE)[-1] for streams in (1, 8))
    assert alone.batch == pytest.approx(1.0)
    assert 4 < together.batch <= 8
    assert together.roof_tokens_per_s > 4 * alone.roof_tokens_per_s
