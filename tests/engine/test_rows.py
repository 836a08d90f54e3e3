"""Rows: the columns of a plan, against the same written out token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_request
from tgi.engine.request import Request
from tgi.engine.rows import Grant, Rows


def _rows(lengths: list[int], computed: list[int], block_size: int = 4) -> Rows:
    rows = Rows(max_rows=8, max_total_tokens=40, block_size=block_size)
    next_block = 1
    for row, length in enumerate(lengths):
        request = Request(make_request(row, range(100 * row, 100 * row + length)), rope_variant=row)
        request.row = row
        count = -(-length // block_size)
        request.blocks = list(range(next_block, next_block + count))[::-1]  # any order, none shared
        next_block += count
        rows.enter(request, computed[row])
    return rows


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_columns_equal_those_of_a_loop_over_tokens(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    computed = [data.draw(st.integers(0, length - 1)) for length in lengths]
    order = data.draw(st.permutations(range(len(lengths))))
    counts = [data.draw(st.sampled_from([1, lengths[row] - computed[row]])) for row in order]
    rows = _rows(lengths, computed)
    columns = rows.token_columns(Grant(np.array(order, np.int32), np.array(counts, np.int32)))
    positions = [p for row, n in zip(order, counts, strict=True) for p in range(computed[row], computed[row] + n)]
    owners = [row for row, n in zip(order, counts, strict=True) for _ in range(n)]
    assert columns["positions"].tolist() == positions
    assert columns["input_ids"].tolist() == [100 * row + p for row, p in zip(owners, positions, strict=True)]
    blocks = [rows.block_tables[row, p // 4] for row, p in zip(owners, positions, strict=True)]
    slots = [block * 4 + p % 4 for block, p in zip(blocks, positions, strict=True)]
    assert columns["slot_mapping"].tolist() == slots
    assert columns["query_starts"].tolist() == [0, *np.cumsum(counts).tolist()]
    after = [computed[row] + n for row, n in zip(order, counts, strict=True)]
    assert columns["context_lens"].tolist() == after
    assert columns["rope_variants"].tolist() == list(order)
    assert columns["block_tables"].tolist() == rows.block_tables[order, : -(-max(after) // 4)].tolist()
    types = {name: column.dtype for name, column in columns.items()}
    assert types.pop("slot_mapping") == np.int64
    assert set(types.values()) == {np.dtype(np.int32)}


def test_a_row_shows_nothing_of_the_request_that_had_it_before() -> None:
    rows = _rows([20], [0])
    request = Request(make_request(5, [7, 8]), rope_variant=0)
    request.row, request.blocks = 0, [9]
    rows.enter(request, 0)
    assert rows.tokens(0).tolist() == [7, 8]
    assert (rows.num_blocks[0], rows.block_tables[0, 0]) == (1, 9)
    rows.extend_table(0, [4, 5])
    assert rows.block_tables[0, :3].tolist() == [9, 4, 5]
