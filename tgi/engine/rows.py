"""The running requests as columns indexed by row, so that a step is planned without visiting tokens one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tgi.engine.messages import FinishReason
from tgi.engine.request import Request
from tgi.runner.plan import Int32, Int64, StepPlan

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
        self.stop_ids: Int32 = np.zeros((0, max_rows), np.int32)  # as many columns as any request had; -1: none

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
        missing = len(request.spec.stop_ids) - len(self.stop_ids)
        self.stop_ids = np.pad(self.stop_ids, ((0, max(0, missing)), (0, 0)), constant_values=-1)
        self.stop_ids[:, row] = [*request.spec.stop_ids, *[-1] * max(0, -missing)]
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

    def decoding(self, grant: Grant) -> npt.NDArray[np.bool_]:
        """Which members of a step that is to be computed add a token to their output, all before it being cached."""
        gaps, outputs = self.num_tokens - self.num_computed, self.num_tokens - self.prompt_lengths
        found: npt.NDArray[np.bool_] = ((gaps == 1) & (outputs > 0))[grant.rows]
        return found

    def append(self, rows: Int64, token_ids: Int32) -> Int32:
        """Add a token to each of `rows`, which are distinct. Returns: how many tokens each has now."""
        lengths = self.num_tokens[rows]
        self.token_ids[rows, lengths] = token_ids
        lengths += 1
        self.num_tokens[rows] = lengths
        return lengths

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


class Members:
    """What is needed of rows that get a token, and does not change while they are the same."""

    def __init__(self, columns: Rows, rows: Int64) -> None:
        self.rows = rows
        self.request_ids = columns.request_ids[rows].tobytes()
        self.before_output = columns.prompt_lengths[rows] + np.int32(1)  # from a length to an index of the output
        self.reporting: list[int] = columns.reports_prompt[rows].nonzero()[0].tolist()
        self._longest = columns.longest[rows]
        self._stop_ids = columns.stop_ids[:, rows]

    def finish(self, token_ids: Int32, lengths: Int32) -> npt.NDArray[np.uint8]:
        """Why each request ends with its token, if it does: a `FinishReason`."""
        stopped: npt.NDArray[np.bool_] = np.zeros(len(token_ids), np.bool_)
        for column in self._stop_ids:  # a reduction over so short an axis costs more
            stopped |= column == token_ids
        finish: npt.NDArray[np.uint8] = stopped * np.uint8(FinishReason.STOP_ID)
        # TGI's order: the last allowed token reports the length even where it is a stop id.
        finish[lengths >= self._longest] = FinishReason.LENGTH
        return finish


class Steady:
    """A step in which every running request decodes one token: while nobody joins or leaves, the next is one like it.

    So no column is made anew but for requests that begin a block; tokens and blocks come from `Rows`.
    """

    def __init__(self, columns: Rows, grant: Grant, plan: StepPlan) -> None:
        self.members = Members(columns, grant.rows)
        self.grant = grant
        self._columns = columns
        self.plan = plan
        self._width = 0

    def beginners(self) -> tuple[Int64, Int64]:
        """Which entries of the next step begin a block, and those of their rows that have none for it yet."""
        entries = (self.plan.context_lens % self._columns.block_size == 0).nonzero()[0]
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
