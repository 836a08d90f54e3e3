"""Stand-ins for the expensive parts: an engine supervisor without processes, and a runner without a model."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tgi.config import Config
from tgi.engine.client import PromptReport, Token
from tgi.engine.messages import EngineReady, EngineRequest, FinishReason, MemoryLedger, StepStats
from tgi.errors import ModelError, RequestError, Unavailable
from tgi.runner.plan import StepPlan, StepResult
from tgi.sampling import SamplingParams, TopTokens
from tgi.server.journal import Journal
from tgi.server.observer import Observer
from tgi.server.recovery import TokenStream


def make_ready(**changes: Any) -> EngineReady:
    """What a small engine says of itself; `changes` replace fields."""
    fields: dict[str, Any] = {
        "model_type": "fake", "dtype": "float32", "device": "cpu", "quantize": None, "kernels": "fake",
        "vocab_size": 256, "num_blocks": 64, "block_size": 16, "max_total_tokens": 1024, "max_step_tokens": 256,
        "max_rows": 128, "load_s": 0.0, "warmup_s": 0.0,
        "memory": MemoryLedger(weights=1, activations=1, kv_block=1, kv_cache=64, available=1000),
    }  # fmt: skip
    return EngineReady(**(fields | changes))


def echo(request: EngineRequest) -> Iterable[int]:
    """The prompt's tokens, again and again."""
    return itertools.cycle(np.frombuffer(request.prompt_ids, np.int32).tolist())


class FakeSupervisor:
    """`tgi.server.recovery.EngineSupervisor` without an engine: every stream is answered in the test's event loop.

    `respond(request)` gives the token ids of a request; yielding an exception fails the stream with it, and ending
    early leaves the stream open (as a slow engine would). Generation stops at `stop_ids` and `max_new_tokens` as in
    the engine. Log-probabilities are `logprob` of chosen tokens, -1, -2, ... for the top tokens (the chosen one first),
    -0.25 for prompt tokens. `hold()` stops all streams until `release()`; `aborted` collects the ids of closed ones.
    """

    def __init__(
        self,
        respond: Callable[[EngineRequest], Iterable[int | RequestError]] = echo,
        *,
        ready: EngineReady | None = None,
    ) -> None:
        self.respond = respond
        self.ready = ready or make_ready()
        self.state = "starting"
        self.restarts = 0
        self.last_stats: StepStats | None = None
        self.observer = Observer()
        self.journal = Journal()
        self.failed = asyncio.Event()
        self.engine_pid: int | None = None
        self.logprob: Callable[[int], float] = lambda token_id: -0.5
        self.requests: list[EngineRequest] = []
        self.aborted: list[int] = []
        self._ids = itertools.count(1)
        self._go = asyncio.Event()
        self._go.set()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def start(self) -> EngineReady:
        """Become ready."""
        self.state = "ready"
        self.engine_pid = 1
        return self.ready

    async def close(self) -> None:
        """Cancel what is still generating."""
        self.state = "draining"
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drain(self) -> None:
        """Report that no new requests are wanted."""
        self.state = "draining"

    async def wait_failed(self) -> None:
        """Wait until `fail()` was called."""
        await self.failed.wait()

    def fail(self) -> None:
        """Behave as a supervisor whose restart budget is spent."""
        self.state = "failed"
        self.failed.set()

    def next_id(self) -> int:
        """A request id that was not given before."""
        return next(self._ids)

    def submit(self, request: EngineRequest) -> TokenStream:
        """Answer the request in a task of its own."""
        if self.state == "failed":
            raise Unavailable
        self.requests.append(request)
        stream = TokenStream(request, self._abort)
        self._tasks[request.id] = asyncio.get_running_loop().create_task(self._answer(stream))
        return stream

    def hold(self) -> None:
        """Generate nothing until `release()`."""
        self._go.clear()

    def release(self) -> None:
        """Go on generating."""
        self._go.set()

    def _abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()

    async def _answer(self, stream: TokenStream) -> None:
        request = stream.request
        await self._go.wait()
        stream.scheduled_at = time.monotonic()
        if request.prompt_logprobs:
            ids = np.frombuffer(request.prompt_ids, np.int32).tolist()
            stream.prompt = PromptReport(
                [None] + [-0.25] * (len(ids) - 1), [(), *(self._top(request, token_id) for token_id in ids[1:])]
            )
        for index, answer in enumerate(self.respond(request)):
            await self._go.wait()
            await asyncio.sleep(0)
            if isinstance(answer, RequestError):
                stream.fail(answer)
                return
            token = self._token(request, index, answer)
            stream.push(token)
            if token.finish:
                self._tasks.pop(request.id, None)
                return

    def _token(self, request: EngineRequest, index: int, token_id: int) -> Token:
        finish = FinishReason.NONE
        if index + 1 >= request.max_new_tokens:
            finish = FinishReason.LENGTH
        elif token_id in request.stop_ids:
            finish = FinishReason.STOP_ID
        return Token(index, token_id, self.logprob(token_id), self._top(request, token_id), finish)

    def _top(self, request: EngineRequest, token_id: int) -> tuple[tuple[int, float], ...]:
        return tuple(((token_id + rank) % self.ready.vocab_size, -1.0 - rank) for rank in range(request.top_tokens))


VOCAB_SIZE = 251
UInt64 = npt.NDArray[np.uint64]


def make_request(request_id: int, prompt: Iterable[int], max_new_tokens: int = 8, **changes: Any) -> EngineRequest:
    """A request for the engine from plain lists; `seed` and `output_ids` may be given as such."""
    sampling = SamplingParams(seed=changes.pop("seed", 0))
    output_ids = np.array(changes.pop("output_ids", []), np.int32).tobytes()
    prompt_ids = np.array(list(prompt), np.int32).tobytes()
    return EngineRequest(
        id=request_id, prompt_ids=prompt_ids, sampling=sampling, max_new_tokens=max_new_tokens, output_ids=output_ids,
        **changes,
    )  # fmt: skip


def _slot_values(token_ids: npt.NDArray[Any], positions: npt.NDArray[Any], variants: Any) -> UInt64:
    """What a slot of the fake KV cache holds: a hash of a token, its position and its rotation."""
    token, position = token_ids.astype(np.uint64) + 1, positions.astype(np.uint64) + 1
    values: UInt64 = (token * 0x9E3779B97F4A7C15) ^ (position * 0xC2B2AE3D27D4EB4F) ^ (variants << np.uint64(40))
    return values


def _next_token(context: UInt64, seed: int) -> tuple[int, float]:
    """The token that follows a context, and its log-probability: a pure function of every slot and the seed."""
    weights = np.arange(len(context), dtype=np.uint64) * 2 + 1
    mixed = (int((context * weights).sum()) + seed * 0x165667B19E3779F9) % (1 << 64)
    mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) % (1 << 64)
    mixed ^= mixed >> 32
    return mixed % VOCAB_SIZE, -(mixed % 1009) / 1009


def expected_tokens(request: EngineRequest, rope_variant: int = 0) -> list[int]:
    """All output tokens `FakeRunner` gives a request when nothing disturbs it."""
    ids: list[int] = np.frombuffer(request.prompt_ids, np.int32).tolist()
    length = len(ids)
    while len(ids) < length + request.max_new_tokens:
        values = _slot_values(np.array(ids), np.arange(len(ids)), np.uint64(rope_variant))
        ids.append(_next_token(values, request.sampling.seed)[0])
        if ids[-1] in request.stop_ids:
            break
    return ids[length:]


class FakeRunner:
    """`ModelRunner` without a model: a token depends on what the slots of its context hold, so no slot can be wrong.

    `faults` maps a token id to what happens in a step that computes it: "kill" (SIGKILL), "stop" (SIGSTOP), "raise",
    "oom" or "nan" (the request's logits are unusable). `kill_at_step` kills in that step (the first is 0), once: the
    file `marker` says that it happened.
    """

    model_type, dtype, device, kernels, vocab_size = "fake", "float32", "cpu", "fake", VOCAB_SIZE
    quantize: str | None = None
    memory = MemoryLedger(weights=1, activations=1, kv_block=1, kv_cache=64, available=1000)
    load_s, warmup_s = 0.0, 0.0

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_total_tokens: int = 200,
        max_step_tokens: int = 16,
        max_rows: int = 8,
        faults: dict[int, str] | None = None,
        kill_at_step: int | None = None,
        marker: str = "",
        step_s: float = 0.0,
        variant_length: int = 1 << 30,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_total_tokens = max_total_tokens
        self.max_step_tokens = max_step_tokens
        self.max_rows = max_rows
        self.num_steps = 0
        self._faults = faults or {}
        self._kill_at_step = kill_at_step
        self._marker = marker
        self._step_s = step_s
        self._variant_length = variant_length
        self._slots = np.zeros((num_blocks + 1) * block_size, np.uint64)
        self.seeds: dict[int, int] = {}  # by row, between `started` and `ended`

    def rope_variant(self, longest: int) -> int:
        """1 for requests longer than `variant_length`, else 0."""
        return int(longest > self._variant_length)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Write the step's slots, then choose from what the block tables lead to."""
        self._fail(plan.input_ids.tolist())
        for row in plan.ended:
            self.seeds.pop(row, None)
        for state in plan.started:
            assert state.row not in self.seeds, f"row {state.row} started twice"
            self.seeds[state.row] = state.sampling.seed
        assert (plan.slot_mapping >= self.block_size).all(), "a token was written to the scratch block"
        assert len(set(plan.slot_mapping.tolist())) == len(plan.slot_mapping), "two tokens share a slot"
        members = np.repeat(np.arange(len(plan.context_lens)), np.diff(plan.query_starts))
        variants = plan.rope_variants[members].astype(np.uint64)
        self._slots[plan.slot_mapping] = _slot_values(plan.input_ids, plan.positions, variants)
        token_ids, logprobs = plan.targets.copy(), np.zeros(len(plan.targets), np.float32)
        top: dict[int, TopTokens] = {}
        failed: dict[int, str] = {}
        for entry, index in enumerate(plan.logits_indices.tolist()):
            member, position = int(members[index]), int(plan.positions[index])
            blocks = plan.block_tables[member].astype(np.int64)
            slots = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()[: position + 1]
            token, logprobs[entry] = _next_token(self._slots[slots], self.seeds[int(plan.logits_rows[entry])])
            if plan.sample[entry]:
                token_ids[entry] = token
            top[entry] = TopTokens(token_ids[entry : entry + 1].tobytes(), logprobs[entry : entry + 1].tobytes())
            if self._faults.get(int(plan.input_ids[index])) == "nan":
                failed[entry] = "logits are not finite"
        self.num_steps += 1
        return StepResult(plan.logits_rows, token_ids, logprobs, top=top, failed=failed)

    def _fail(self, token_ids: list[int]) -> None:
        time.sleep(self._step_s)
        if self.num_steps == self._kill_at_step and not Path(self._marker).exists():
            Path(self._marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for fault in {self._faults.get(token_id, "") for token_id in token_ids}:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif fault == "raise":
                raise RuntimeError("the kernel failed")
            elif fault == "oom":
                raise MemoryError("no room for activations")


def load_fake_runner(config: Config, model_path: Path) -> FakeRunner:
    """A runner factory for real engine processes; `model_path` is not a path but the runner's arguments as JSON.

    `{"error": ...}` fails as a missing model does, `{"die": true}` kills the process while it loads.
    """
    options = json.loads(str(model_path))
    if "error" in options:
        raise ModelError(options["error"], hint="give another", exit_code=12)
    if options.pop("die", False):
        os.kill(os.getpid(), signal.SIGKILL)
    if "scarce" in options:  # memory for 4 blocks only, once this file exists
        marker = Path(options.pop("scarce"))
        asked = config.batching.max_batch_total_tokens
        options["num_blocks"] = asked // options["block_size"] if asked else 4 if marker.exists() else 32
        marker.touch()
    options["faults"] = {int(token): fault for token, fault in options.get("faults", {}).items()}
    return FakeRunner(**options)
