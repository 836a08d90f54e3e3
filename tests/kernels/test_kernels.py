"""Every operation, on every path, against a plain formula in float64 or torch's own function."""

from __future__ import annotations

from types import ModuleType

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.matrices import LAYOUTS, random_matrix, whole_columns
from tgi.checkpoint.blocks import dequantize
from tgi.kernels import Matrix, PackedWeight

CLOSE = {"rtol": 3e-6, "atol": 3e-6}


def exact(weight: PackedWeight) -> Tensor:
    parts = [dequantize(part.layout, part.data, part.columns) for part in weight.parts]
    return torch.from_numpy(np.concatenate(parts)).double()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_values_are_those_of_the_gguf_package(ops: ModuleType, layout: str) -> None:
    matrix = random_matrix(layout, 37, whole_columns(layout, 512), any_scale=True)
    expected = gguf.quants.dequantize(matrix.data, gguf.GGMLQuantizationType[layout]).reshape(37, -1)
    ids = torch.tensor([36, 0, 5, 5, 17], dtype=torch.int32)
    found = ops.embedding(ids, matrix).numpy()
    np.testing.assert_array_equal(found.view(np.uint32), expected[ids.numpy()].view(np.uint32))


@pytest.mark.parametrize("layout", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("columns", [1, 7, 33, 100])
def test_rows_of_any_width_are_read(ops: ModuleType, layout: str, columns: int) -> None:
    matrix = random_matrix(layout, 5, columns)
    expected = dequantize(layout, matrix.data, columns)
    np.testing.assert_array_equal(ops.embedding(torch.tensor([4, 2], dtype=torch.int32), matrix), expected[[4, 2]])


def test_rows_are_taken_in_the_order_asked_for(ops: ModuleType) -> None:
    x = torch.randn(5, 24)
    assert torch.equal(ops.take(x, torch.tensor([3, 0, 3], dtype=torch.int32)), x[[3, 0, 3]])
    assert ops.take(x, torch.zeros(0, dtype=torch.int32)).shape == (0, 24)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"indices must be in \[0, 5\)"):
            ops.take(x, torch.tensor([0, wrong], dtype=torch.int32))


def test_embedding_of_an_unknown_id_is_refused(ops: ModuleType) -> None:
    matrix = random_matrix("F32", 5, 8)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"\[0, 5\)"):
            ops.embedding(torch.tensor([0, wrong], dtype=torch.int32), matrix)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 31])
def test_matmul_is_the_product_with_the_stored_values(ops: ModuleType, layout: str, tokens: int) -> None:
    weight = PackedWeight((random_matrix(layout, 29, whole_columns(layout, 800), seed=tokens),))
    x = torch.randn(tokens, weight.columns)
    bound = x.abs().double() @ exact(weight).abs().T
    error = (ops.matmul(x, weight).double() - x.double() @ exact(weight).T).abs()
    assert (error <= 1e-6 * bound + 1e-30).all()


@pytest.mark.parametrize("columns", [1, 7, 8, 31, 33, 767, 769, 1540])
@pytest.mark.parametrize("layout", ["F32", "F16", "BF16"])
def test_matmul_takes_any_width(ops: ModuleType, layout: str, columns: int) -> None:
    weight = PackedWeight((random_matrix(layout, 13, columns),))
    for tokens in (1, 3, 9):
        x = torch.randn(tokens, columns)
        bound = x.abs().double() @ exact(weight).abs().T
        error = (ops.matmul(x, weight).double() - x.double() @ exact(weight).T).abs()
        assert (error <= 1e-6 * bound).all()


@pytest.mark.parametrize("tokens", [1, 6, 300])
def test_parts_lie_side_by_side_with_bias_and_residual(ops: ModuleType, tokens: int) -> None:
    parts = (random_matrix("F32", 25, 64), random_matrix("Q8_0", 1, 64), random_matrix("BF16", 14, 64))
    weight, bias, x = PackedWeight(parts), torch.randn(40), torch.randn(tokens, 100)[:, :64]
    product = x.double() @ exact(weight).T + bias
    torch.testing.assert_close(ops.matmul(x, weight, bias=bias).double(), product, rtol=1e-5, atol=1e-5)
    residual = torch.randn(tokens, 40)
    expected = residual.double() + product
    returned = ops.matmul(x, weight, bias=bias, residual=residual)
    assert returned.data_ptr() == residual.data_ptr()
    torch.testing.assert_close(residual.double(), expected, rtol=1e-5, atol=1e-5)


def test_weights_are_read_wherever_they_lie(ops: ModuleType) -> None:
    stored = random_matrix("F32", 13, 40)
    shifted = np.concatenate([np.zeros(3, np.uint8), stored.data])[3:]
    x = torch.randn(3, 40)
    expected = ops.matmul(x, PackedWeight((stored,)))
    assert torch.equal(ops.matmul(x, PackedWeight((Matrix("F32", 13, 40, shifted),))), expected)


def test_a_nan_stays_in_its_row(ops: ModuleType) -> None:
    weight = PackedWeight((random_matrix("Q4_1", 24, 64),))
    x = torch.randn(6, 64)
    clean = ops.matmul(x, weight)
    x[2, 5] = float("nan")
    found = ops.matmul(x, weight)
    assert found[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found[others], clean[others])


def test_numbers_below_the_normal_range_are_not_flushed(ops: ModuleType) -> None:
    weight = PackedWeight((Matrix("F32", 1, 2, np.array([1.0, 1.0], np.float32).view(np.uint8)),))
    assert ops.matmul(torch.tensor([[1e-40, 2e-40]]), weight).item() == pytest.approx(3e-40, rel=1e-4)


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 7), (5, 576), (2, 3, 20), (40, 4, 64)])
def test_norms_follow_their_formulas(ops: ModuleType, shape: tuple[int, ...]) -> None:
    wide = torch.randn(*shape[:-1], shape[-1] + 3) * 3 + 1
    x, weight, bias = wide[..., : shape[-1]], torch.randn(shape[-1]), torch.randn(shape[-1])
    exactly, size = x.double(), shape[-1:]
    rms = exactly / torch.sqrt((exactly**2).mean(-1, keepdim=True) + 1e-5) * weight
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5).double(), rms, **CLOSE)
    for offset in (bias, None):
        found = ops.layer_norm(x, weight, offset, 1e-5)
        wanted = F.layer_norm(exactly, size, weight.double(), None if offset is None else bias.double(), 1e-5)
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotated", [8, 16])
def test_rotary_turns_pairs_of_strided_heads(ops: ModuleType, interleaved: bool, rotated: int) -> None:
    tokens, heads, kv_heads, size = 5, 4, 2, 16
    fused = torch.randn(tokens, (heads + kv_heads) * size + 1)
    q = fused[:, : heads * size].view(tokens, heads, size)
    k = fused[:, heads * size : -1].view(tokens, kv_heads, size)
    angle = torch.rand(tokens, rotated // 2) * 6
    before = torch.cat([q, k], dim=1).double()
    turn = torch.polar(torch.ones_like(angle).double(), angle.double())[:, None]
    part = before[..., :rotated]
    pairs = part.unflatten(-1, (-1, 2)) if interleaved else part.unflatten(-1, (2, -1)).transpose(-1, -2)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    expected = before.clone()
    expected[..., :rotated] = (turned if interleaved else turned.transpose(-1, -2)).flatten(-2)
    ops.rotary(q, k, angle.cos(), angle.sin(), interleaved=interleaved)
    torch.testing.assert_close(torch.cat([q, k], dim=1).double(), expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keys_and_values_are_rounded_as_torch_does(ops: ModuleType, dtype: torch.dtype) -> None:
    values = torch.randn(30, 2, 20) * torch.logspace(-9, 6, 30)[:, None, None]
    values[0, 0, :6] = torch.tensor([float("inf"), -float("inf"), 65519.9, 65520.0, -0.0, 6e-8])
    k, v = values[..., :10], values[..., 10:]
    k_cache, v_cache = (torch.zeros(5, 8, 2, 10, dtype=dtype) for _ in range(2))
    slots = torch.randperm(40)[:30]
    ops.write_kv(k, v, k_cache, v_cache, slots)
    for cache, given in ((k_cache, k), (v_cache, v)):
        assert torch.equal(cache.view(40, 2, 10)[slots], given.to(dtype))
    untouched = [slot for slot in range(40) if slot not in set(slots.tolist())]
    assert not k_cache.view(40, 2, 10)[untouched].any()


def test_nan_keys_stay_nan_in_every_cache(ops: ModuleType) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cache, nan = torch.zeros(1, 1, 1, 8, dtype=dtype), torch.full((1, 1, 8), float("nan"))
        ops.write_kv(nan, nan, cache, cache.clone(), torch.tensor([0]))
        assert cache.isnan().all()


def test_a_slot_outside_the_cache_is_refused_and_nothing_written(ops: ModuleType) -> None:
    cache, ones = torch.zeros(2, 4, 1, 8), torch.ones(2, 1, 8)
    for wrong in (-1, 8):
        with pytest.raises(ValueError, match="slots must be in"):
            ops.write_kv(ones, ones, cache, cache.clone(), torch.tensor([0, wrong]))
    assert not cache.any()


def attended(q: Tensor, keys: Tensor, values: Tensor, scale: float, window: int) -> Tensor:
    """Attention of one request's last queries, in float64. Shapes: q [t, heads, hd]; keys, values [context, ...]."""
    count, context = len(q), len(keys)
    share = q.shape[1] // keys.shape[1]
    keys, values = (part.double().repeat_interleave(share, dim=1) for part in (keys, values))
    position = torch.arange(context - count, context)[:, None]
    seen = torch.arange(context) <= position
    if window:
        seen &= torch.arange(context) > position - window
    scores = torch.einsum("thd,chd->htc", q.double(), keys) * scale
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    return torch.einsum("htc,chd->thd", weights, values).flatten(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "window"),
    [(9, 3, 64, 0), (4, 4, 20, 0), (8, 1, 80, 7), (2, 2, 8, 40), (70, 1, 16, 0), (6, 2, 33, 1)],
)
def test_attention_over_scattered_blocks(
    ops: ModuleType, path: str, dtype: torch.dtype, heads: int, kv_heads: int, size: int, window: int
) -> None:
    block_size, contexts, counts = 8, (1, 50, 37, 90), (1, 13, 1, 90)
    order = (torch.randperm(39) + 1).tolist()
    k_cache, v_cache = (torch.full((40, block_size, kv_heads, size), 1e4, dtype=dtype) for _ in range(2))
    tables, queries, expected = torch.zeros(4, 12, dtype=torch.int32), [], []
    for request, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        keys, values = torch.randn(2, context, kv_heads, size).to(dtype)
        q = torch.randn(count, heads, size)
        for start in range(0, context, block_size):
            block = order.pop()
            tables[request, start // block_size] = block
            k_cache[block, : context - start] = keys[start : start + block_size]
            v_cache[block, : context - start] = values[start : start + block_size]
        queries.append(q)
        expected.append(attended(q, keys, values, 0.3, window))
    starts = torch.tensor([0, 1, 14, 15, 105], dtype=torch.int32)
    fused = torch.cat([torch.cat(queries).flatten(1), torch.zeros(105, 5)], dim=1)
    q = fused[:, : heads * size].view(105, heads, size)
    lens = torch.tensor(contexts, dtype=torch.int32)
    found = ops.attention(q, k_cache, v_cache, starts, lens, tables, scale=0.3, window=window)
    rounded = dtype == torch.bfloat16 and path != "torch"  # queries and weights are
    torch.testing.assert_close(found.double(), torch.cat(expected), rtol=1e-5, atol=2e-2 if rounded else 1e-5)
    assert (found - torch.cat(expected)).abs().mean() < (1e-3 if rounded else 1e-6)


def test_attention_of_nothing_is_nothing(ops: ModuleType) -> None:
    cache = torch.zeros(2, 4, 1, 8)
    none = torch.zeros(0, dtype=torch.int32)
    tables = torch.zeros(0, 3, dtype=torch.int32)
    found = ops.attention(
        torch.zeros(0, 2, 8), cache, cache, torch.zeros(1, dtype=torch.int32), none, tables, scale=1.0
    )
    assert found.shape == (0, 16)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 7), (2, 64), (70, 30)])
def test_activations_follow_torch(ops: ModuleType, activation: str, shape: tuple[int, int]) -> None:
    x = torch.randn(shape[0], 2 * shape[1]) * 8
    special = torch.tensor([0.0, -0.0, 1e-40, 100.0, -100.0, 1e30, float("nan")])[: x.numel()]
    x.view(-1)[: len(special)] = special
    functions = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda v: F.gelu(v, approximate="tanh")}
    expected = functions[activation](x.double())
    found = ops.activate(x, activation).double()
    torch.testing.assert_close(found, expected, equal_nan=True, **CLOSE)
    gate, up = x.double()[:, : shape[1]], x.double()[:, shape[1] :]
    product = functions[activation](gate) * up
    torch.testing.assert_close(ops.gated(x, activation).double(), product, equal_nan=True, rtol=3e-6, atol=3e-5)


@pytest.mark.parametrize("width", [1, 7, 8, 1000, 4096, 9001])
def test_greedy_takes_the_lowest_of_the_likeliest(ops: ModuleType, width: int) -> None:
    logits = (torch.randn(9, width) * 3).round()  # rounded: many ties
    token_ids, logprobs = ops.greedy(logits)
    assert token_ids.tolist() == logits.argmax(-1).tolist()
    expected = torch.log_softmax(logits.double(), dim=-1).amax(-1)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)


def test_greedy_reports_rows_without_a_choice_as_nan(ops: ModuleType) -> None:
    logits = torch.randn(6, 100)
    logits[1, 99] = float("nan")
    logits[2] = float("nan")
    logits[3] = -float("inf")
    logits[4, 7] = float("inf")
    logits[5, :99] = -float("inf")
    token_ids, logprobs = ops.greedy(logits)
    assert logprobs.isnan().tolist() == [False, True, True, True, True, False]
    assert (token_ids[5].item(), logprobs[5].item()) == (99, 0.0)
    assert all(0 <= token < 100 for token in token_ids.tolist())
    assert ops.greedy(logits[:0])[0].shape == (0,)
