"""The promise the engine is built on: an output depends on its own inputs, never on what else is computed beside it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.matrices import LAYOUTS, random_matrix, whole_columns
from tgi import kernels
from tgi.kernels import PackedWeight

WIDE = ("avx512_bf16", "avx512", "avx2")  # paths that round alike

# The path is configured once a test, not once an example: that is what is wanted.
same_path = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_of_a_matmul_ignores_the_others(ops: ModuleType, layout: str, integer: bool) -> None:
    columns = whole_columns(layout, 800)  # more than one chunk of columns
    weight = PackedWeight(
        (
            random_matrix(layout, 17, columns, integer=integer),
            random_matrix(layout, 3, columns, seed=1, integer=integer),
        )
    )
    bias, x = torch.randn(20), torch.randn(41, columns)
    alone = torch.cat([ops.matmul(row[None], weight, bias=bias) for row in x])
    for tokens in (2, 3, 4, 5, 6, 7, 8, 11, 16, 40, 41):
        assert torch.equal(ops.matmul(x[:tokens], weight, bias=bias), alone[:tokens])
        assert torch.equal(ops.matmul(x[-tokens:], weight, bias=bias), alone[-tokens:])


@pytest.mark.parametrize("columns", [5, 12, 33, 775])
def test_a_row_of_a_matmul_ignores_the_others_at_any_width(ops: ModuleType, columns: int) -> None:
    for layout in ("F32", "F16", "BF16"):
        weight = PackedWeight((random_matrix(layout, 13, columns),))
        x = torch.randn(9, columns + 3)[:, :columns]
        alone = torch.cat([ops.matmul(row.clone()[None], weight) for row in x])
        for tokens in range(1, 10):
            assert torch.equal(ops.matmul(x[:tokens], weight), alone[:tokens])


def test_many_tokens_are_no_different(ops: ModuleType) -> None:
    weight = PackedWeight((random_matrix("Q4_1", 30, 800),))
    x = torch.randn(259, 800)  # more tokens than one block of sums holds
    whole = ops.matmul(x, weight)
    for token in (0, 3, 255, 256, 258):
        assert torch.equal(ops.matmul(x[token : token + 1], weight)[0], whole[token])


@pytest.mark.parametrize("integer", [False, True])
def test_an_output_ignores_the_parts_beside_it(ops: ModuleType, integer: bool) -> None:
    parts = tuple(random_matrix(layout, 19, 800, integer=integer) for layout in ("Q8_0", "F16", "Q5_1"))
    x = torch.randn(6, 800)
    alone = torch.cat([ops.matmul(x, PackedWeight((part,))) for part in parts], dim=1)
    assert torch.equal(ops.matmul(x, PackedWeight(parts)), alone)
    residual = torch.randn(6, 57)
    assert torch.equal(ops.matmul(x, PackedWeight(parts), residual=residual.clone()), residual + alone)


@pytest.mark.parametrize("width", [3, 64, 577])
def test_a_row_of_every_other_operation_ignores_the_others(ops: ModuleType, width: int) -> None:
    x, weight, bias = torch.randn(33, 2 * width), torch.randn(width), torch.randn(width)
    half = x[:, :width]
    operations = [
        lambda rows: ops.rms_norm(rows[:, :width], weight, 1e-5),
        lambda rows: ops.layer_norm(rows[:, :width], weight, bias, 1e-5),
        *(lambda rows, name=name: ops.gated(rows, name) for name in ("silu", "gelu", "gelu_tanh", "relu")),
        *(lambda rows, name=name: ops.activate(rows, name) for name in ("silu", "gelu", "gelu_tanh", "relu")),
        lambda rows: ops.greedy(rows)[1],
    ]
    for operation in operations:
        whole = operation(x)
        for first, last in ((0, 1), (5, 6), (32, 33), (4, 11)):
            assert torch.equal(operation(x[first:last].clone()), whole[first:last])
    heads = half.reshape(11, 3, width)
    assert torch.equal(ops.rms_norm(heads, weight, 1e-5).view(33, width), ops.rms_norm(half, weight, 1e-5))


class Prompt:
    """One request's keys, values and queries, and what attention gives for each token computed alone."""

    def __init__(self, tokens: int, heads: int, kv_heads: int, size: int) -> None:
        self.keys, self.values = torch.randn(2, tokens, kv_heads, size)
        self.queries = torch.randn(tokens, heads, size)

    def attend(self, cuts: list[int], block_size: int, dtype: torch.dtype, window: int, seed: int) -> Tensor:
        """Write and attend chunk by chunk, with another request of random length beside each chunk."""
        tokens = len(self.queries)
        random = torch.Generator().manual_seed(seed)
        count = -(-tokens // block_size)
        shape = (2 * count + 4, block_size, *self.keys.shape[1:])
        k_cache, v_cache = (torch.full(shape, float("nan"), dtype=dtype) for _ in range(2))
        blocks = torch.randperm(shape[0], generator=random).int()
        table = torch.stack([blocks[:count], blocks[count : 2 * count]])
        outputs = []
        for first, last in zip([0, *cuts], [*cuts, tokens], strict=True):
            other = int(torch.randint(1, last - first + 1, (1,), generator=random))
            positions = torch.arange(tokens)
            slots = table.long()[:, positions // block_size] * block_size + positions % block_size
            slots = torch.cat([slots[0, first:last], slots[1, :other]])
            keys, values = (torch.cat([part[first:last], part[:other]]) for part in (self.keys, self.values))
            kernels.write_kv(keys, values, k_cache, v_cache, slots)
            queries = torch.cat([self.queries[first:last], self.queries[:other]])
            starts = torch.tensor([0, last - first, last - first + other], dtype=torch.int32)
            lens = torch.tensor([last, other], dtype=torch.int32)
            found = kernels.attention(queries, k_cache, v_cache, starts, lens, table, scale=0.2, window=window)
            outputs.append(found[: last - first])
        return torch.cat(outputs)


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(9, 3, 64), (4, 4, 12), (6, 1, 32), (70, 1, 8)])
@pytest.mark.parametrize("window", [0, 11])
def test_attention_ignores_chunks_blocks_and_neighbours(
    path: str, heads: int, kv_heads: int, size: int, window: int
) -> None:
    tokens = 45 if path == "torch" else 150
    prompt = Prompt(tokens, heads, kv_heads, size)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        alone = prompt.attend(list(range(1, tokens)), 4, dtype, window, seed=0)

        @same_path
        @given(
            st.sets(st.integers(1, tokens - 1), max_size=6), st.sampled_from([1, 3, 16, 64]), st.integers(0, 1 << 20)
        )
        def any_cut(cuts: set[int], block_size: int, seed: int) -> None:
            assert torch.equal(prompt.attend(sorted(cuts), block_size, dtype, window, seed), alone)  # noqa: B023

        any_cut()


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(9, 3, 64), (8, 2, 80), (4, 4, 20), (7, 1, 96), (70, 1, 8)])
@pytest.mark.parametrize("window", [0, 50])
def test_attention_gives_the_same_bits_with_wider_vectors(heads: int, kv_heads: int, size: int, window: int) -> None:
    prompt = Prompt(850, heads, kv_heads, size)
    found: dict[str, list[Tensor]] = {}
    for most in WIDE:
        path = kernels.configure(threads=2, most=most)
        types = (torch.float32, torch.float16, torch.bfloat16)
        found[path] = [prompt.attend([840, 849], 16, dtype, window, seed=1) for dtype in types]
    kernels.configure(threads=1)
    first, *others = found.values()
    if not others:
        pytest.skip("this machine has one such path only")
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("size", [64, 24])
def test_tiny_numbers_in_bfloat16_give_the_same_bits_with_wider_vectors(size: int) -> None:
    """Below 2^-126 they count as zeros, whether pairs of them are multiplied by one instruction or two."""
    prompt = Prompt(200, 6, 2, size)
    prompt.keys *= 10.0 ** torch.randint(-42, 1, prompt.keys.shape)
    prompt.values *= 10.0 ** torch.randint(-42, -30, prompt.values.shape)
    prompt.queries *= 10.0 ** torch.randint(-3, 3, prompt.queries.shape)
    found = {}
    for most in WIDE:
        path = kernels.configure(threads=2, most=most)
        found[path] = prompt.attend([190, 199], 16, torch.bfloat16, 0, seed=1)
    kernels.configure(threads=1)
    first, *others = found.values()
    if not others:
        pytest.skip("this machine has one such path only")
    assert all(torch.equal(first, other) for other in others)
    assert first.abs().max() > 0


@pytest.mark.parametrize("window", [0, 700])
def test_attention_over_several_spans_ignores_chunks(path: str, window: int) -> None:
    if path == "torch":
        pytest.skip("spans are the native library's")
    tokens = 1600
    prompt = Prompt(tokens, 6, 2, 16)
    whole = prompt.attend([], 16, torch.float16, window, seed=0)
    for cuts in ([1], [511], [512], [513, 1535, 1536], [100, 900, 1599]):
        assert torch.equal(prompt.attend(cuts, 16, torch.float16, window, seed=1), whole)


@pytest.mark.parametrize("lengths", [[200], [200, 200], [190, 200, 200], [200, 60, 130], [1100, 40], [64] * 9])
def test_attention_to_several_requests_ignores_how_threads_share_them(lengths: list[int]) -> None:
    """Few requests are cut by heads, some of many too."""
    blocks, queries = -(-max(lengths) // 16), torch.randn(len(lengths), 9, 64)
    tables = torch.randperm(len(lengths) * blocks).int().view(-1, blocks)
    starts, lens = torch.arange(len(lengths) + 1, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)
    for dtype in (torch.float32, torch.bfloat16):
        keys, values = torch.randn(2, tables.numel(), 16, 3, 64).to(dtype)
        found = []
        for threads in (1, 2, 3):
            if kernels.configure(threads=threads) == "torch":
                pytest.skip("the native library was not built")
            found.append(kernels.attention(queries, keys, values, starts, lens, tables, scale=0.2))
        kernels.configure(threads=1)
        alone = [
            kernels.attention(
                queries[i : i + 1], keys, values, starts[:2], lens[i : i + 1], tables[i : i + 1], scale=0.2
            )
            for i in range(len(lengths))
        ]
        assert all(torch.equal(other, torch.cat(alone)) for other in found)


@pytest.mark.parametrize("window", [0, 900])
def test_attention_over_several_spans_is_attention(ops: ModuleType, window: int) -> None:
    tokens = 1000
    prompt = Prompt(tokens, 6, 2, 20)
    found = prompt.attend([tokens - 2], 16, torch.float32, window, seed=0)[-2:].view(2, 6, 20)
    for token, position in enumerate((tokens - 2, tokens - 1)):
        seen = slice(max(0, position + 1 - window) if window else 0, position + 1)
        scores = torch.einsum("hd,khd->hk", prompt.queries[position], prompt.keys[seen].repeat_interleave(3, 1)) * 0.2
        expected = torch.einsum("hk,khd->hd", scores.softmax(1), prompt.values[seen].repeat_interleave(3, 1))
        torch.testing.assert_close(found[token], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", ["avx512_bf16", "avx512", "avx2", "portable"])
def test_the_number_of_threads_changes_nothing(most: str) -> None:
    weights = [
        PackedWeight((random_matrix(layout, 500, 768, integer=integer),))
        for layout in ("F32", "Q4_1", "Q6_K")
        for integer in (False, True)
    ]
    prompt, x, many = Prompt(60, 9, 3, 64), torch.randn(37, 768), torch.randn(37, 5000)
    results = []
    for threads in (1, 2, 3):
        if kernels.configure(threads=threads, most=most) == "torch":
            pytest.skip("the native library was not built")
        found = [kernels.matmul(x[:tokens], weight) for weight in weights for tokens in (1, 4, 37)]
        found += [kernels.greedy(many)[1], kernels.gated(many, "silu"), kernels.rms_norm(x, x[0], 1e-5)]
        results.append([*found, prompt.attend([7], 16, torch.float32, 0, seed=1)])
    kernels.configure(threads=1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
