"""The one scheduling rule: each step gives requests tokens to compute until none is missing (docs/design.md, 6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tgi.engine.blocks import BlockAllocator
from tgi.engine.messages import EngineRequest, RequestFailed, StepOutput, StepStats
from tgi.engine.request import Request
from tgi.engine.rows import Grant, Members, Rows, Steady
from tgi.runner.plan import Int32, Int64, StepPlan, StepResult
from tgi.sampling import TopTokens

MOST_PREEMPTIONS = 5
LOOK_AHEAD = 8  # requests that may wait for a prefix while others, behind them in the queue, start


class Scheduler:
    """Decides what each step computes. One `plan()`, its execution, then `update()`; no other call in between.

    A request preempted `MOST_PREEMPTIONS` times is pinned: it returns with all the blocks it can ever need, so it
    neither asks for more nor gives any back. Hence every request ends, whatever arrives after it.

    Units: `num_blocks` lendable blocks of `block_size` tokens; `max_step_tokens` is the token budget of a step;
    `rope_variant` maps the longest length of a request to the table its positions use.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_rows: int,
        max_step_tokens: int,
        max_total_tokens: int,
        rope_variant: Callable[[int], int] = lambda longest: 0,
        prefix_caching: bool = True,
    ) -> None:
        self._blocks = BlockAllocator(num_blocks + 1)
        self._rows = Rows(max_rows, max_total_tokens, block_size)
        self._block_size = block_size
        self._max_step_tokens = max_step_tokens
        self._max_total_tokens = max_total_tokens
        self._rope_variant = rope_variant
        self._prefix_caching = prefix_caching
        self._reserve = -(-num_blocks // 100)  # kept free at admission, so that running requests can grow
        self._waiting: OrderedDict[int, Request] = OrderedDict()
        self._running: dict[int, Request] = {}  # by id, oldest first
        self._by_row: list[Request | None] = [None] * max_rows
        self._free_rows = list(range(max_rows - 1, -1, -1))
        self._ended: list[int] = []
        self._grant = Grant(np.zeros(0, np.int64), np.zeros(0, np.int32))
        self._started: list[Request] = []
        self._cached_tokens = 0
        self._preempted = 0
        self._steady: Steady | None = None  # the last step, while the next one can only be like it
        self._sampled = np.zeros(0, np.int32)  # its tokens

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self._running and not self._waiting

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be lent now, those with a remembered prefix included."""
        return self._blocks.num_free

    @property
    def running_ids(self) -> tuple[int, ...]:
        """Ids of the requests that hold a row, oldest first."""
        return tuple(self._running)

    @property
    def planned_ids(self) -> tuple[int, ...]:
        """Ids of the members of the last plan."""
        ids: list[int] = self._rows.request_ids[self._grant.rows].tolist()
        return tuple(ids)

    @property
    def started_ids(self) -> tuple[int, ...]:
        """Ids of the requests that left the waiting queue for the last plan."""
        return tuple(request.spec.id for request in self._started)

    def add(self, spec: EngineRequest) -> None:
        """Put a request at the end of the waiting queue.

        Raises: ValueError, with a reason for people, if it could never be computed here.
        """
        length = len(spec.prompt_ids) // 4
        done = len(spec.output_ids) // 4
        if length == 0 or done >= spec.max_new_tokens:
            raise ValueError(f"request has {length} prompt tokens and {done} of {spec.max_new_tokens} output tokens")
        longest = length + spec.max_new_tokens
        if longest > self._max_total_tokens or self._blocks_for(longest - 1) > self._blocks.num_lendable:
            raise ValueError(f"{longest} tokens do not fit: at most {self._max_total_tokens} are possible")
        if spec.id in self._waiting or spec.id in self._running:
            raise ValueError(f"request id {spec.id} is in use")
        self._waiting[spec.id] = Request(spec, self._rope_variant(longest))

    def abort(self, ids: Iterable[int]) -> None:
        """Forget requests; their rows and blocks are free at once. Unknown ids are ignored."""
        for request_id in ids:
            if self._waiting.pop(request_id, None) is None and (request := self._running.get(request_id)) is not None:
                self._leave_row(request)

    def plan(self, max_tokens: int | None = None) -> StepPlan | None:
        """Decide the next step, of at most `max_tokens`. Returns: None if there is nothing to compute."""
        budget = min(max_tokens or self._max_step_tokens, self._max_step_tokens)
        self._started = []
        self._cached_tokens = self._preempted = 0
        if (plan := self._plan_steady()) is not None:
            return plan
        rows, counts = self._grant_running(budget)
        if not self._preempted:  # the blocks just taken from the newest request are not for the queue it leads
            admitted = self._admit_waiting(budget - int(counts.sum()))
            rows = np.concatenate((rows, np.array([request.row for request in self._started], np.int64)))
            counts = np.concatenate((counts, np.array(admitted, np.int32)))
        members = counts > 0
        self._grant = Grant(rows[members], counts[members])
        if not len(self._grant.rows):
            return None
        ended, self._ended = tuple(self._ended), []
        plan = StepPlan(
            **self._rows.token_columns(self._grant),
            **self._logits_columns(),
            started=tuple(request.row_state() for request in self._started),
            ended=ended,
        )
        decoding = self._rows.decoding(self._grant)
        if decoding.all() and len(decoding) == len(self._running):
            self._steady = Steady(self._rows, self._grant, plan)
        return plan

    def update(self, plan: StepPlan, result: StepResult) -> tuple[StepOutput, list[RequestFailed]]:
        """Take in what the step produced: append tokens, finish requests, remember full blocks, free what ended."""
        rows, after = self._grant.rows, plan.context_lens
        before = self._rows.num_computed[rows]
        num_decoding, failed = len(rows), []
        if self._steady is None or result.failed:
            num_decoding = int(self._rows.decoding(self._grant).sum())
            self._collect_prompt_logprobs(plan, result)
            failed = self._fail(result)  # before remembering: what such a request computed is not worth finding
        self._rows.num_computed[rows] = after
        if self._steady is None:  # a request that only decodes remembers its blocks when it leaves its row
            for row in rows[after // self._block_size > before // self._block_size].tolist():
                if (request := self._by_row[row]) is not None:
                    self._remember(request)
        columns = self._append(plan, result)
        stats = StepStats(
            waiting=len(self._waiting),
            running=len(self._running),
            free_blocks=self.num_free_blocks,
            cached_tokens=self._cached_tokens,
            preemptions=self._preempted,
            prefill_tokens=len(plan.input_ids) - num_decoding,
            decode_tokens=num_decoding,
            forward_s=result.forward_s,
            sample_s=result.sample_s,
            started_ids=self.started_ids,
        )
        return StepOutput(**columns, stats=stats), failed

    # Planning

    def _plan_steady(self) -> StepPlan | None:
        """The next step after one in which all decoded, if it is another one. Returns: None when it may not be."""
        steady = self._steady
        if steady is None or (self._waiting and self._free_rows):
            return None
        beginners, wanting = steady.beginners()
        if len(wanting) > self._blocks.num_free:
            return None
        blocks = self._blocks.allocate(len(wanting))
        self._rows.extend_each(wanting, blocks)
        for row, block in zip(wanting.tolist(), blocks, strict=True):
            self._at(row).blocks.append(block)
        return steady.advance(self._sampled, beginners)

    def _grant_running(self, budget: int) -> tuple[Int64, Int32]:
        """Tokens for running requests, oldest first, preempting the newest until the blocks suffice."""
        while True:
            rows = np.fromiter((request.row for request in self._running.values()), np.int64, len(self._running))
            gaps = self._rows.num_tokens[rows] - self._rows.num_computed[rows]
            older = np.cumsum(gaps) - gaps
            counts = np.clip(budget - older, 0, gaps).astype(np.int32)
            needed = -(-(self._rows.num_computed[rows] + counts) // self._block_size)
            missing = np.maximum(needed - self._rows.num_blocks[rows], 0)
            if int(missing.sum()) <= self._blocks.num_free:
                break
            newest = next(r for r in reversed(self._running.values()) if r.preemptions < MOST_PREEMPTIONS)
            self._preempt(newest)
        for index in np.flatnonzero(missing).tolist():
            request = self._at(int(rows[index]))
            blocks = self._blocks.allocate(int(missing[index]))
            request.blocks.extend(blocks)
            self._rows.extend_table(request.row, blocks)
        return rows, counts

    def _admit_waiting(self, budget: int) -> list[int]:
        """Start waiting requests in order while a row, budget and blocks remain. Returns: tokens for each.

        A request whose next block is being computed by another waits for it, in its place, and lets others pass. It
        cannot wait forever: whom it waits for is running, and hence ends, or stops running, without its help.
        """
        counts: list[int] = []
        sharing: list[Request] = []
        while self._waiting and self._free_rows and budget > 0 and len(sharing) < LOOK_AHEAD:
            request = next(iter(self._waiting.values()))
            hashes = self._hashes(request)
            # Log-probabilities of a prompt are wanted: then all of it is computed, cached or not.
            found = hashes if request.prompt_logprobs is None else []
            matched, free_matched = self._blocks.count_free_matches(found)
            if matched < len(found) and self._blocks.is_promised(found[matched]):
                sharing.append(self._waiting.pop(request.spec.id))
                continue
            if not self._borrow(request, hashes, matched, free_matched):
                break
            del self._waiting[request.spec.id]
            self._running[request.spec.id] = request
            self._steady = None
            self._started.append(request)
            counts.append(min(budget, len(request.token_ids) - int(self._rows.num_computed[request.row])))
            budget -= counts[-1]
        for request in reversed(sharing):
            self._queue_first(request)
        return counts

    def _hashes(self, request: Request) -> list[bytes]:
        """Hashes of the full blocks of a waiting request that may come from the prefix cache, and go into it."""
        if not self._prefix_caching:
            return []
        # At least the last token is computed: its logits are what the request came for.
        count = (len(request.token_ids) - 1) // self._block_size
        return request.block_hashes(request.token_ids, count, self._block_size)

    def _borrow(self, request: Request, hashes: list[bytes], matched: int, free_matched: int) -> bool:
        """Lend a waiting request a row and blocks for all its tokens, cached ones first; False if there are too few.

        The first `matched` blocks of `hashes` come from the cache, which holds `free_matched` of them for nobody.
        """
        length = len(request.token_ids)
        pinned = request.preemptions >= MOST_PREEMPTIONS
        wanted = self._blocks_for(request.longest - 1 if pinned else length)
        reserve = self._reserve if self._running else 0
        if wanted - matched + free_matched > self._blocks.num_free - reserve:
            return False
        request.blocks = self._blocks.match(hashes[:matched])
        request.blocks += self._blocks.allocate(wanted - matched)
        request.num_remembered = matched
        self._blocks.promise(hashes[matched:], request.spec.id)
        request.row = self._free_rows.pop()
        self._by_row[request.row] = request
        self._rows.enter(request, matched * self._block_size)
        self._cached_tokens += matched * self._block_size
        return True

    def _preempt(self, request: Request) -> None:
        """Take row and blocks back and put the request in front of the queue; it recomputes later."""
        request.token_ids = self._rows.tokens(request.row)
        request.preemptions += 1
        self._preempted += 1
        self._leave_row(request)
        self._queue_first(request)

    def _queue_first(self, request: Request) -> None:
        self._waiting[request.spec.id] = request
        self._waiting.move_to_end(request.spec.id, last=False)

    def _logits_columns(self) -> dict[str, Any]:
        """Which of the granted tokens need logits: the last of each complete request, and wanted prompt tokens."""
        rows, counts = self._grant.rows, self._grant.counts
        ends = np.cumsum(counts)
        before = self._rows.num_computed[rows]
        complete = before + counts == self._rows.num_tokens[rows]
        indices = [(ends[complete] - 1).astype(np.int32)]
        owners = [rows[complete]]
        targets = [np.full(len(owners[0]), -1, np.int32)]
        for i in np.flatnonzero(self._rows.reports_prompt[rows]).tolist():
            prompt_ids = self._at(int(rows[i])).prompt_ids
            first, last = int(before[i]), min(int(before[i] + counts[i]), len(prompt_ids) - 1)
            wanted = np.arange(first, max(first, last), dtype=np.int32)
            indices.append(wanted + np.int32(ends[i] - counts[i] - first))
            owners.append(np.full(len(wanted), rows[i], np.int64))
            targets.append(prompt_ids[wanted + 1])
        order = np.argsort(np.concatenate(indices), kind="stable")
        target_column = np.concatenate(targets)[order]
        return {
            "logits_indices": np.concatenate(indices)[order],
            "logits_rows": np.concatenate(owners)[order].astype(np.int32),
            "sample": target_column < 0,
            "targets": target_column,
        }

    # Taking in results

    def _remember(self, request: Request) -> None:
        """Make the full blocks of a running request findable, those that are not yet."""
        first, last = request.num_remembered, int(self._rows.num_computed[request.row]) // self._block_size
        if self._prefix_caching and first < last:
            hashes = request.block_hashes(self._rows.token_ids[request.row], last, self._block_size)[first:]
            for block, content in zip(request.blocks[first:last], hashes, strict=True):
                self._blocks.remember(block, content)
            self._blocks.retract(hashes, request.spec.id)
            request.num_remembered = last

    def _collect_prompt_logprobs(self, plan: StepPlan, result: StepResult) -> None:
        for entry in np.flatnonzero(~plan.sample).tolist():
            request = self._at(int(plan.logits_rows[entry]))
            assert request.prompt_logprobs is not None
            position = int(plan.positions[plan.logits_indices[entry]]) + 1
            request.prompt_logprobs[position] = result.logprobs[entry]
            if entry in result.top:
                request.prompt_top[position] = result.top[entry]

    def _fail(self, result: StepResult) -> list[RequestFailed]:
        """End requests whose logits could not be used."""
        failed = []
        for entry, reason in result.failed.items():
            if (request := self._by_row[int(result.rows[entry])]) is not None:  # several entries may fail one request
                self._leave_row(request)
                failed.append(RequestFailed(ids=(request.spec.id,), reason=reason))
        return failed

    def _append(self, plan: StepPlan, result: StepResult) -> dict[str, Any]:
        """Append sampled tokens and finish what is complete. Returns: the columns of a `StepOutput`."""
        if self._steady is not None:
            members, token_ids, logprobs = self._steady.members, result.token_ids, result.logprobs
        else:
            kept = [i for i in np.flatnonzero(plan.sample).tolist() if self._by_row[result.rows[i]] is not None]
            entries = np.array(kept, np.int64)
            members = Members(self._rows, result.rows[entries].astype(np.int64))
            token_ids, logprobs = result.token_ids[entries], result.logprobs[entries]
        rows = members.rows
        lengths = self._rows.append(rows, token_ids)
        finish = members.finish(token_ids, lengths)
        prompts: dict[int, bytes] = {}
        prompt_top: dict[int, dict[int, TopTokens]] = {}
        while members.reporting:
            request = self._at(int(rows[i := members.reporting.pop()]))
            assert request.prompt_logprobs is not None
            prompts[i] = request.prompt_logprobs.tobytes()
            request.prompt_logprobs = None
            if request.prompt_top:
                prompt_top[i], request.prompt_top = request.prompt_top, {}
            self._rows.reports_prompt[request.row] = False
        self._sampled = token_ids
        top = result.top
        if top and self._steady is None:
            top = {place: top[entry] for place, entry in enumerate(kept) if entry in top}
        for i in finish.nonzero()[0].tolist():
            self._leave_row(self._at(int(rows[i])))
        return {
            "request_ids": members.request_ids,
            "indices": (lengths - members.before_output).tobytes(),
            "token_ids": token_ids.tobytes(),
            "logprobs": logprobs.tobytes(),
            "finish": finish.tobytes(),
            "top": top,
            "prompt_logprobs": prompts,
            "prompt_top": prompt_top,
        }

    def _leave_row(self, request: Request) -> None:
        self._steady = None
        self._remember(request)
        self._blocks.retract(request.known_hashes, request.spec.id)
        self._blocks.release(request.blocks)
        request.blocks = []
        self._by_row[request.row] = None
        self._free_rows.append(request.row)
        self._ended.append(request.row)
        request.row = -1
        del self._running[request.spec.id]

    def _at(self, row: int) -> Request:
        request = self._by_row[row]
        assert request is not None, f"row {row} belongs to no request"
        return request

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)
