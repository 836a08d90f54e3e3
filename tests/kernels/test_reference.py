"""The torch backend is the definition: the native paths stay close to it on the shapes of a real layer."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.matrices import random_matrix
from tgi import kernels
from tgi.kernels import PackedWeight, reference


@pytest.mark.parametrize("most", ["avx512_bf16", "avx512", "avx2", "portable"])
def test_native_results_are_within_rounding_of_the_definition(most: str) -> None:
    if kernels.configure(most=most) != most:
        pytest.skip(f"`{most}` does not run here")
    tokens, hidden = 12, 576
    x, weight = torch.randn(tokens, hidden), torch.rand(hidden) + 0.5
    qkv = PackedWeight(tuple(random_matrix("Q4_1", rows, hidden) for rows in (576, 192, 192)))
    angle = torch.rand(tokens, 32)
    results = []
    for backend in (kernels, reference):
        normed = backend.rms_norm(x, weight, 1e-5)
        fused = backend.matmul(normed, qkv)
        q, k, v = (part.unflatten(-1, (-1, 64)) for part in fused.split([576, 192, 192], dim=-1))
        backend.rotary(q, k, angle.cos(), angle.sin(), interleaved=False)
        k_cache, v_cache = torch.zeros(2, 3, 16, 3, 64)
        backend.write_kv(k, v, k_cache, v_cache, torch.arange(16, 28))
        starts, lens, table = (torch.tensor(v, dtype=torch.int32) for v in ([0, 12], [12], [[1]]))
        attended = backend.attention(q, k_cache, v_cache, starts, lens, table, scale=0.125)
        results.append([normed, fused, k_cache, attended, backend.gated(attended, "silu"), backend.greedy(fused)[1]])
    kernels.configure(threads=1)
    for native, defined in zip(*results, strict=True):
        # Softmax of large scores magnifies the rounding of what comes before it.
        torch.testing.assert_close(native, defined, rtol=2e-4, atol=2e-4)


def test_a_large_matrix_is_dequantised_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = PackedWeight((random_matrix("Q8_0", 70, 64),)), torch.randn(2, 64)
    whole = reference.matmul(x, weight)
    monkeypatch.setattr(reference, "_TILE_VALUES", 64 * 16)
    torch.testing.assert_close(reference.matmul(x, weight), whole)


def test_any_block_of_memory_gives_the_same_bits() -> None:
    torch.set_num_threads(1)
    weight, memory = PackedWeight((random_matrix("F32", 40, 577),)), torch.zeros(600)
    row = torch.randn(577)
    expected = reference.matmul(row[None].clone(), weight)
    for shift in range(1, 20):
        memory[shift : shift + 577] = row
        assert torch.equal(reference.matmul(memory[None, shift : shift + 577], weight), expected)
