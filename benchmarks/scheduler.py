"""What the scheduler costs a step, without a model: `python -m benchmarks.scheduler`.

Every step plans for `--running` decoding requests while `--waiting` others queue, and takes a made-up result in. The
least of many steps is what the code costs; the median is what this machine gave it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from tgi.engine.messages import EngineRequest
from tgi.engine.scheduler import Scheduler
from tgi.runner.plan import StepPlan, StepResult
from tgi.sampling import SamplingParams

PROMPT = 100
_WARM_STEPS = 200


def request(number: int, new_tokens: int) -> EngineRequest:
    """A greedy request with a prompt that shares no block with another; they begin their blocks at different steps."""
    prompt = np.arange(PROMPT, dtype=np.int32) + number * PROMPT
    sampling = SamplingParams(seed=0)
    return EngineRequest(
        id=number, prompt_ids=prompt.tobytes(), sampling=sampling, max_new_tokens=new_tokens, stop_ids=(2,)
    )  # fmt: skip


def result_of(plan: StepPlan) -> StepResult:
    """What a model that always says 5 would answer."""
    token_ids = np.where(plan.sample, 5, plan.targets).astype(np.int32)
    return StepResult(plan.logits_rows, token_ids, np.zeros(len(token_ids), np.float32))


def steps(running: int, waiting: int, count: int) -> list[tuple[float, float]]:
    """Microseconds of `plan()` and of `update()` of each of `count` steps in which all running requests decode."""
    new_tokens = _WARM_STEPS + count + 100
    scheduler = Scheduler(
        num_blocks=running * (-(-(PROMPT + new_tokens) // 16) + 1), block_size=16, max_rows=running,
        max_step_tokens=512, max_total_tokens=8192,
    )  # fmt: skip
    for number in range(running + waiting):
        scheduler.add(request(number, new_tokens))
    found = []
    while len(found) < count:
        begin = time.perf_counter()
        plan = scheduler.plan()
        planned = time.perf_counter()
        assert plan is not None
        result = result_of(plan)
        middle = time.perf_counter()
        scheduler.update(plan, result)
        end = time.perf_counter()
        if len(plan.input_ids) == running:
            found.append((1e6 * (planned - begin), 1e6 * (end - middle)))
    return found


def main() -> None:
    """Measure queues of several lengths, interleaved by round, and print one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--running", type=int, default=256)
    parser.add_argument("--waiting", default="0,100,10000")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    queues = [int(word) for word in options.waiting.split(",")]
    samples: dict[int, list[tuple[float, float]]] = {waiting: [] for waiting in queues}
    for _ in range(options.rounds):
        for waiting in queues:
            samples[waiting] += steps(options.running, waiting, options.steps)
    for waiting, found in samples.items():
        totals = [plan + update for plan, update in found]
        line = {
            "running": options.running, "waiting": waiting, "steps": len(totals),
            "plan_us_min": min(plan for plan, _ in found), "update_us_min": min(update for _, update in found),
            "total_us_min": min(totals), "total_us_p50": statistics.median(totals),
            "total_us_mean": statistics.fmean(sorted(totals)[: len(totals) * 9 // 10]),
        }  # fmt: skip
        print(json.dumps({key: round(value, 1) for key, value in line.items()}))


if __name__ == "__main__":
    main()
