"""Drives a `ModelRunner` by hand: step plans without a scheduler."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np

from tgi.runner.plan import RowState, StepPlan, StepResult
from tgi.runner.runner import ModelRunner
from tgi.sampling import SamplingParams


@dataclass
class Sequence:
    """One request: its tokens, how many of them are computed, and where."""

    ids: list[int]
    sampling: SamplingParams
    row: int
    blocks: list[int]
    prompt_length: int
    top_tokens: int = 0
    score: bool = False  # ask for the log-probability of every token
    rope_variant: int = 0
    computed: int = 0
    started: bool = False
    logprobs: dict[int, float] = field(default_factory=dict)  # by position of the token they belong to

    @property
    def output(self) -> list[int]:
        """Tokens chosen so far."""
        return self.ids[self.prompt_length :]


class Driver:
    """Hands out rows and blocks, and never takes blocks back; blocks come shuffled, so that order cannot hide a bug."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self._blocks = np.random.default_rng(0).permutation(np.arange(1, runner.num_blocks + 1)).tolist()
        self._rows = 0
        self._ended: list[int] = []

    def add(
        self,
        ids: Many[int],
        sampling: SamplingParams | None = None,
        *,
        longest: int = 0,
        prefix: Sequence | None = None,
        shared_blocks: int = 0,
        top_tokens: int = 0,
        score: bool = False,
    ) -> Sequence:
        """A request that may grow to `longest` tokens; its first blocks may be those of `prefix`, already computed."""
        block_size = self.runner.block_size
        shared = prefix.blocks[:shared_blocks] if prefix else []
        wanted = -(-max(longest, len(ids) + 1) // block_size) - len(shared)
        blocks, self._blocks = self._blocks[:wanted], self._blocks[wanted:]
        assert len(blocks) == wanted, "the test needs a larger cache"
        self._rows += 1
        return Sequence(
            list(ids),
            sampling or SamplingParams(),
            self._rows - 1,
            shared + blocks,
            prompt_length=len(ids),
            top_tokens=top_tokens,
            score=score,
            rope_variant=self.runner.rope_variant(max(longest, len(ids))),
            computed=len(shared) * block_size,
        )

    def end(self, sequence: Sequence) -> None:
        """Let the next step forget the row."""
        self._ended.append(sequence.row)

    def step(self, *work: tuple[Sequence, int]) -> StepResult:
        """Compute so many further tokens of each sequence; one whose tokens are all computed gets another."""
        plan = self._plan(work)
        result = self.runner.execute(plan)
        by_row = {sequence.row: sequence for sequence, _ in work}
        for sequence, count in work:
            sequence.computed += count
        positions = plan.positions[plan.logits_indices]
        for entry, row in enumerate(plan.logits_rows.tolist()):
            sequence = by_row[row]
            sequence.logprobs[int(positions[entry]) + 1] = float(result.logprobs[entry])
            if plan.sample[entry]:
                sequence.ids.append(int(result.token_ids[entry]))
        return result

    def run(self, sequences: Many[Sequence], new_tokens: int, *, chunk: int = 1 << 30) -> None:
        """Prefill in chunks and decode, all sequences together, until each has `new_tokens` more."""
        goal = {sequence.row: len(sequence.ids) + new_tokens for sequence in sequences}
        while work := [
            (one, min(chunk, len(one.ids) - one.computed)) for one in sequences if len(one.ids) < goal[one.row]
        ]:
            self.step(*work)

    def _plan(self, work: Many[tuple[Sequence, int]]) -> StepPlan:
        block_size = self.runner.block_size
        spans = [range(one.computed, one.computed + count) for one, count in work]
        starts = np.cumsum([0, *(len(span) for span in spans)])
        tables = np.zeros((len(work), max(len(one.blocks) for one, _ in work)), dtype=np.int32)
        slots: list[int] = []
        logits: list[tuple[int, int, bool, int]] = []  # index, row, sample, target
        for member, ((one, _), span) in enumerate(zip(work, spans, strict=True)):
            tables[member, : len(one.blocks)] = one.blocks
            slots += [one.blocks[position // block_size] * block_size + position % block_size for position in span]
            for position in span:
                index = int(starts[member]) + position - span.start
                if position == len(one.ids) - 1:
                    logits.append((index, one.row, True, -1))
                elif one.score:
                    logits.append((index, one.row, False, one.ids[position + 1]))
        columns = list(zip(*logits, strict=True)) if logits else [(), (), (), ()]
        ended, self._ended = tuple(self._ended), []
        return StepPlan(
            input_ids=_int32(
                [one.ids[position] for (one, _), span in zip(work, spans, strict=True) for position in span]
            ),
            positions=_int32([position for span in spans for position in span]),
            slot_mapping=np.array(slots, dtype=np.int64),
            query_starts=_int32(starts),
            context_lens=_int32([span.stop for span in spans]),
            block_tables=tables,
            rope_variants=_int32([one.rope_variant for one, _ in work]),
            logits_indices=_int32(columns[0]),
            logits_rows=_int32(columns[1]),
            sample=np.array(columns[2], dtype=np.bool_),
            targets=_int32(columns[3]),
            started=tuple(_start(one) for one, _ in work if not one.started),
            ended=ended,
        )


def _start(one: Sequence) -> RowState:
    one.started = True
    return RowState(
        one.row, one.sampling, _int32(one.ids[: one.prompt_length]), _int32(one.output), one.top_tokens, one.score
    )


def _int32(values: Many[int] | np.ndarray) -> np.ndarray:
    return np.array(values, dtype=np.int32)
