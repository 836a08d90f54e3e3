"""The watermark is that of transformers: the same green lists, and a detector that finds the same."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from tgi.runner.watermark import detect, green_tokens, seed_after

SETTINGS = [(300, 0.5), (1003, 0.25), (5000, 0.1)]


def reference(vocab: int, gamma: float) -> transformers.WatermarkDetector:
    return transformers.WatermarkDetector(
        SimpleNamespace(vocab_size=vocab, bos_token_id=-1, is_encoder_decoder=False),  # type: ignore[arg-type]
        device="cpu",
        watermarking_config={"greenlist_ratio": gamma, "bias": 2.0, "seeding_scheme": "lefthash"},
        ignore_repeated_ngrams=True,
    )


@pytest.mark.parametrize(("vocab", "gamma"), SETTINGS)
def test_green_tokens_are_those_of_transformers(vocab: int, gamma: float) -> None:
    processor = reference(vocab, gamma).processor
    for previous in (0, 1, 7, 299):
        expected = torch.zeros(vocab, dtype=torch.bool)
        expected[processor._get_greenlist_ids(torch.tensor([5, previous]))] = True
        assert torch.equal(torch.from_numpy(green_tokens(previous, vocab, gamma).copy()), expected)


@pytest.mark.parametrize("vocab", [1, 2, 7, 1003, 49152, 151936])
@pytest.mark.parametrize("gamma", [0.001, 0.25, 0.5, 0.999])
def test_green_tokens_are_the_first_of_a_permutation_by_torch(vocab: int, gamma: float) -> None:
    for previous in (0, 1, 283, 284, vocab - 1):  # the seed of 284 no longer fits into 32 bits
        generator = torch.Generator().manual_seed(seed_after(previous))
        expected = torch.randperm(vocab, generator=generator)[: int(vocab * gamma)]

        assert np.flatnonzero(green_tokens(previous, vocab, gamma)).tolist() == expected.sort().values.tolist()


@pytest.mark.parametrize(("vocab", "gamma"), SETTINGS)
def test_detection_counts_what_transformers_counts(vocab: int, gamma: float) -> None:
    ids = np.random.default_rng(3).integers(0, 300, 200)
    ids[100:150] = ids[50:100]  # repeated pairs count once
    expected = reference(vocab, gamma)(torch.tensor(ids)[None], return_dict=True)

    found = detect(ids.tolist(), vocab_size=vocab, gamma=gamma)

    assert (found.num_tokens, found.num_green) == (expected.num_tokens_scored[0], expected.num_green_tokens[0])
    assert found.green_fraction == pytest.approx(expected.green_fraction[0])
    assert found.z_score == pytest.approx(expected.z_score[0])
    assert found.p_value == pytest.approx(expected.p_value[0], abs=1e-6)


def test_a_text_of_green_tokens_is_found_and_one_of_red_tokens_is_not() -> None:
    generator = np.random.default_rng(0)
    green, red = [7], [7]
    for _ in range(60):
        green.append(int(generator.choice(np.flatnonzero(green_tokens(green[-1], 1003, 0.5)))))
        red.append(int(generator.choice(np.flatnonzero(~green_tokens(red[-1], 1003, 0.5)))))

    assert detect(green, vocab_size=1003, gamma=0.5).num_green == 60
    assert detect(green, vocab_size=1003, gamma=0.5).z_score > 7
    assert detect(red, vocab_size=1003, gamma=0.5).num_green == 0


def test_one_token_tells_nothing() -> None:
    with pytest.raises(ValueError, match="one token"):
        detect([5], vocab_size=300, gamma=0.5)
