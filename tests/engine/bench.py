"""A scheduler stepped by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fakes import FakeRunner
from tgi.engine.messages import EngineRequest, FinishReason, StepOutput
from tgi.engine.scheduler import Scheduler
from tgi.runner.plan import StepPlan


class Bench:
    """A scheduler and a fake runner, stepped by hand."""

    def __init__(self, **options: Any) -> None:
        caching = options.pop("prefix_caching", True)
        self.runner = runner = FakeRunner(**options)
        self.scheduler = Scheduler(
            num_blocks=runner.num_blocks,
            block_size=runner.block_size,
            max_rows=runner.max_rows,
            max_step_tokens=runner.max_step_tokens,
            max_total_tokens=runner.max_total_tokens,
            rope_variant=runner.rope_variant,
            prefix_caching=caching,
        )
        self.tokens: dict[int, list[int]] = {}
        self.finish: dict[int, FinishReason] = {}
        self.failed: dict[int, str] = {}
        self.prompt_logprobs: dict[int, list[float]] = {}
        self.prompt_top: dict[int, dict[int, tuple[int, float]]] = {}  # the first of each position
        self.outputs: list[StepOutput] = []
        self.plans: list[StepPlan] = []

    def add(self, request: EngineRequest) -> None:
        self.scheduler.add(request)
        self.tokens[request.id] = np.frombuffer(request.output_ids, np.int32).tolist()

    def step(self) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            return False
        assert len(plan.input_ids) <= self.runner.max_step_tokens
        output, failed = self.scheduler.update(plan, self.runner.execute(plan))
        self.plans.append(plan)
        self.outputs.append(output)
        self.failed.update({i: message.reason for message in failed for i in message.ids})
        columns = zip(
            np.frombuffer(output.request_ids, np.int64).tolist(),
            np.frombuffer(output.indices, np.int32).tolist(),
            np.frombuffer(output.token_ids, np.int32).tolist(),
            output.finish,
            strict=True,
        )
        for entry, (request_id, index, token, finish) in enumerate(columns):
            assert index == len(self.tokens[request_id]), "outputs are numbered without gaps"
            self.tokens[request_id].append(token)
            if finish:
                self.finish[request_id] = FinishReason(finish)
            if entry in output.prompt_logprobs:
                self.prompt_logprobs[request_id] = np.frombuffer(output.prompt_logprobs[entry], np.float32).tolist()
                self.prompt_top[request_id] = {
                    position: (np.frombuffer(top.token_ids, np.int32)[0], np.frombuffer(top.logprobs, np.float32)[0])
                    for position, top in output.prompt_top.get(entry, {}).items()
                }
        return True

    def run(self, limit: int = 2000) -> None:
        while self.step():
            limit -= 1
            assert limit, "the requests never end"
        assert self.scheduler.idle

    def allocator(self) -> Any:
        return self.scheduler._blocks
