"""The running requests as columns indexed by row, so that a step is planned without visiting tokens one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tgi.engine.request import Request
from tgi.runner.plan import Int32, Int64, StepPlan

STOP_IDS = 4  # kept as columns; a request with more is looked at by itself
_SLACK = 8  # columns of block tables beyond what is needed now


@dataclass(frozen=True, slots=True)
class Grant:
    """Which running requests compute how many tokens in one step, oldest request first."""

    rows: Int64  # [B] 64 bits: numpy indexes with them three times as fast
    counts: Int32  # [B], each > 0


class Rows:
    """Facts of running requests that change every step; a row belongs to one request until it stops running."""

    def __init__(self, max_rows: int, max_total_tokens: int, block_size: int) -> None:
        self.block_size = block_size
        # Zero pages are not memory until they are written: only as much as was ever used is resident.
        self.token_ids: Int32 = np.zeros((max_rows, max_total_tokens + 1), np.int32)
        self.block_tables: Int32 = np.zeros((max_rows, -(-max_total_tokens // block_size)), np.int32)
        self.request_ids = np.zeros(max_rows, np.int64)
        self.num_tokens: Int32 = np.zeros(max_rows, np.int32)
        self.num_computed: Int32 = np.zeros(max_rows, np.int32)  # tokens whose keys and values are in the cache
        self.num_blocks: Int32 = np.zeros(max_rows, np.int32)
        self.prompt_lengths: Int32 = np.zeros(max_rows, np.int32)
        self.longest: Int32 = np.zeros(max_rows, np.int32)
        self.rope_variants: Int32 = np.zeros(max_rows, np.int32)
        self.reports_prompt = np.zeros(max_rows, np.bool_)  # log-probabilities of prompt tokens are still wanted
        self.stop_ids: Int32 = np.full((STOP_IDS, max_rows), -1, np.int32)
        self.more_stop_ids = np.zeros(max_rows, np.bool_)
        self._most_stop_ids = 0  # of any row so far: columns beyond are empty

    def enter(self, request: Request, num_computed: int) -> None:
        """Write what is known of a request into its row; `num_computed` tokens come from the prefix cache."""
        row = request.row
        length = len(request.token_ids)
        self.token_ids[row, :length] = request.token_ids
        self.request_ids[row] = request.spec.id
        self.num_tokens[row] = length
        self.num_computed[row] = num_computed
        self.prompt_lengths[row] = len(request.prompt_ids)
        self.longest[row] = request.longest
        self.rope_variants[row] = request.rope_variant
        self.reports_prompt[row] = request.prompt_logprobs is not None
        stop_ids = sorted(request.stop_ids)[:STOP_IDS]
        self.stop_ids[:, row] = stop_ids + [-1] * (STOP_IDS - len(stop_ids))
        self._most_stop_ids = max(self._most_stop_ids, len(stop_ids))
        self.more_stop_ids[row] = len(request.stop_ids) > STOP_IDS
        self.num_blocks[row] = 0
        self.extend_table(row, request.blocks)

    def extend_table(self, row: int, blocks: list[int]) -> None:
        """Append blocks to the row's block table."""
        count = int(self.num_blocks[row])
        self.block_tables[row, count : count + len(blocks)] = blocks
        self.num_blocks[row] = count + len(blocks)

    def extend_each(self, rows: Int64, blocks: list[int]) -> None:
        """Append one block to the table of each of `rows`, which are distinct."""
        self.block_tables[rows, self.num_blocks[rows]] = blocks
        self.num_blocks[rows] += 1

    def stopped(self, rows: Int64, token_ids: Int32) -> npt.NDArray[np.bool_]:
        """Which rows' tokens are among their first `STOP_IDS` stop ids."""
        found: npt.NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        for column in self.stop_ids[: self._most_stop_ids]:  # a reduction over so short an axis costs more
            found |= column[rows] == token_ids
        return found

    def tokens(self, row: int) -> Int32:
        """A copy of the row's prompt and output."""
        return self.token_ids[row, : self.num_tokens[row]].copy()

    def token_columns(self, grant: Grant) -> dict[str, Any]:
        """The columns of a `StepPlan` that follow from which tokens are computed: all but those about logits."""
        rows, counts = grant.rows, grant.counts
        query_starts = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(counts, out=query_starts[1:])
        before = self.num_computed[rows]
        after = before + counts
        if len(rows) == query_starts[-1]:  # one token each: the common step
            token_rows, positions = rows, before
        else:
            token_rows = np.repeat(rows, counts)
            positions = np.arange(query_starts[-1], dtype=np.int32) + np.repeat(before - query_starts[:-1], counts)
        blocks = self.block_tables[token_rows, positions // self.block_size].astype(np.int64)
        width = -(-int(after.max()) // self.block_size)
        return {
            "input_ids": self.token_ids[token_rows, positions],
            "positions": positions,
            "slot_mapping": blocks * self.block_size + positions % self.block_size,
            "query_starts": query_starts,
            "context_lens": after,
            "block_tables": self.block_tables[rows, :width],
            "rope_variants": self.rope_variants[rows],
        }


class Steady:
    """A step in which every running request decodes one token: while nobody joins or leaves, the next is one like it.

    So no column is made anew but for requests that begin a block; tokens and blocks come from `Rows`.
    """

    def __init__(self, columns: Rows, grant: Grant, plan: StepPlan) -> None:
        self._columns = columns
        self.grant = grant
        self.plan = plan
        self._width = 0

    def beginners(self) -> tuple[Int64, Int64]:
        """Which entries of the next step begin a block, and those of their rows that have none for it yet."""
        entries = np.flatnonzero(self.plan.context_lens % self._columns.block_size == 0)
        rows = self.grant.rows[entries]
        held = self._columns.num_blocks[rows] * self._columns.block_size
        return entries, rows[held <= self.plan.context_lens[entries]]

    def advance(self, token_ids: Int32, beginners: Int64) -> StepPlan:
        """The next step, after the tokens of this one; all rows have their blocks."""
        plan, size = self.plan, self._columns.block_size
        positions = plan.context_lens
        slots = plan.slot_mapping + 1
        tables = plan.block_tables
        if len(beginners):
            places = positions[beginners] // size
            blocks = self._columns.block_tables[self.grant.rows[beginners], places]
            slots[beginners] = blocks.astype(np.int64) * size
            if int(places.max()) >= self._width:
                self._width = int(positions.max()) // size + _SLACK
                tables = np.ascontiguousarray(self._columns.block_tables[self.grant.rows, : self._width])
            tables[beginners, places] = blocks
        self.plan = plan.repeated(token_ids, slots, tables)
        return self.plan
