"""Runs step plans: the model, its KV cache and the sampler, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs

from tgi import kernels, models
from tgi.checkpoint import Checkpoint
from tgi.config import Config
from tgi.errors import ModelError
from tgi.kernels import Array
from tgi.kernels.arrays import FLOATS, STORED
from tgi.kernels.pages import pages
from tgi.layers.forward_batch import ForwardBatch, KVCache
from tgi.layers.loader import Loader
from tgi.layers.model import CausalLM
from tgi.layers.rope_scaling import override_rope
from tgi.quantization import int8, outliers
from tgi.runner.fresh import FreshBlocks
from tgi.runner.grammar import GrammarFactory, LateMatchers
from tgi.runner.graphs import GraphRunner
from tgi.runner.ledger import MemoryLedger
from tgi.runner.memory import LOGITS_ROWS, MemoryPlan, plan_memory
from tgi.runner.plan import RowState, StepPlan, StepResult
from tgi.runner.sampler import Choice, Sampler
from tgi.sampling import SamplingParams, TopTokens

if TYPE_CHECKING:
    from tgi.guidance.mask import LoadTokenizer

_Entries = slice | np.ndarray[tuple[int], np.dtype[np.int64]]
_NO_IDS = np.empty(0, dtype=np.int32)


class ModelRunner:
    """Computes what the engine decided. Holds weights, the KV cache and sampling rows, and no request.

    The attributes are what `EngineReady` reports.
    """

    device = "cpu"

    def __init__(
        self, model: CausalLM, plan: MemoryPlan, *, kv_layout: str, quantize: str | None, kernels: str,
        grammars: GrammarFactory | None = None,
    ) -> None:  # fmt: skip
        """`kv_layout`: what keys and values are held in, one of `tgi.kernels.arrays.FLOATS`."""
        self.model_type = model.config.model_type
        self.dtype = FLOATS[kv_layout]
        self.quantize = quantize
        self.kernels = kernels
        self.vocab_size = model.config.vocab_size
        self.num_blocks = plan.num_blocks
        self.block_size = plan.block_size
        self.max_total_tokens = plan.max_total_tokens
        self.max_step_tokens = plan.max_step_tokens
        self.max_rows = plan.max_rows
        self.memory: MemoryLedger = plan.ledger
        self.load_s = 0.0
        self.warmup_s = 0.0
        self._model = model
        self._outliers_known = True
        self._sampler = Sampler(self.vocab_size, grammars)
        # One block more than can be lent: block 0 is scratch, for padding and for warming up.
        shape = (plan.num_blocks + 1, plan.block_size, model.config.num_kv_heads, model.config.head_dim)
        self._caches = [KVCache(_zeros(shape, kv_layout), _zeros(shape, kv_layout)) for _ in model.config.windows]
        self._fresh = FreshBlocks(self._caches)
        longest = -(-plan.max_total_tokens // plan.block_size)
        self._graphs = GraphRunner(model, self._caches, max_blocks=longest, max_tokens=plan.max_step_tokens)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, *, config: Config, load_tokenizer: LoadTokenizer | None = None,
        to_int8: int8.Convert | None = None,
    ) -> ModelRunner:  # fmt: skip
        """Map the weights, choose kernels, and reserve the KV cache.

        `load_tokenizer` is called when the first grammar comes; without it, requests with a grammar fail. `to_int8`
        converts weights for `--quantize int8`; by default they are kept in the user's cache.
        Raises: ModelError (16, 17 or 18) when the model cannot run here; ConfigError for lengths it cannot have.
        """
        start = time.perf_counter()
        chosen = kernels.configure(threads=config.batching.threads, native=not config.model.disable_custom_kernels)
        asked = config.model.dtype
        convert = config.model.quantize == "int8"
        loader = Loader(checkpoint, dtype=asked, convert=(to_int8 or _int8_cache().quantize) if convert else None)
        model = models.load(
            override_rope(checkpoint.config, config.model.rope_scaling, config.model.rope_factor), loader
        )
        if convert and not loader.integer:
            raise ModelError(
                f"`--quantize int8` finds nothing to multiply in integers: the weights are stored as {loader.layout}",
                hint="leave the flag out; float weights are converted where their rows are multiples of 32 long",
                exit_code=18,
            )
        # Keys and values in float32 unless the model, or its user, chose 16 bits: quantised weights are no such choice,
        # integer arithmetic is one. It takes the type whose pairs processors multiply at once.
        stored = loader.float_layout if loader.float_layout in FLOATS else "F32"
        unasked = "BF16" if convert else stored
        kv_layout = next((layout for layout, name in FLOATS.items() if name == asked), unasked)
        plan = plan_memory(
            model.config, config, weight_bytes=loader.weight_bytes, kv_item_bytes=STORED[kv_layout].itemsize
        )  # fmt: skip
        runner = cls(
            model,
            plan,
            kv_layout=kv_layout,
            quantize=_quantization(loader, convert),
            kernels=chosen,
            grammars=LateMatchers(load_tokenizer, model.config.vocab_size) if load_tokenizer else None,
        )
        runner._outliers_known = not convert
        runner.load_s = time.perf_counter() - start
        return runner

    def rope_variant(self, total_len: int) -> int:
        """Which rotary table a request uses that may grow to `total_len` tokens; goes into `StepPlan.rope_variants`."""
        return self._model.config.rope.variant(total_len)

    def warm_up(self) -> None:
        """Run a prompt and one more token through every weight, in the scratch block; sets `warmup_s`."""
        start = time.perf_counter()
        length = min(self.block_size, self.max_step_tokens, self.max_total_tokens)
        prompt = np.zeros(max(1, length - 1), dtype=np.int32)
        state = RowState(0, SamplingParams(do_sample=True), prompt, _NO_IDS, top_tokens=0, prompt_logprobs=False)
        for first, last in ((0, len(prompt)), (len(prompt), length)):
            if last > first:
                self.execute(_scratch_plan(first, last, (state,) if first == 0 else ()))
        self._sampler.end((0,))
        self.warmup_s = time.perf_counter() - start

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute the step's tokens, and choose or score those that the plan asks for.

        Raises: MemoryError when the step does not fit into memory; sampling rows that the plan began then exist, and
        are forgotten when a later plan names them in `ended`.
        """
        if not self._outliers_known:
            self._single_out()
        start = time.perf_counter()
        self._sampler.end(plan.ended)
        self._sampler.begin(plan.started)
        chosen_rows = (plan.logits_rows if _chooses_all(plan) else plan.logits_rows[plan.sample]).tolist()
        self._sampler.prepare_masks(chosen_rows)  # beside the forward pass
        self._fresh.reach(plan.slot_mapping)
        each_once = _chooses_all(plan) and len(chosen_rows) == len(plan.input_ids)
        outcome = self._graphs.forward(plan, likeliest=each_once and not self._sampler.asks(chosen_rows))
        forward_s = time.perf_counter() - start
        if outcome.likeliest is not None:
            choice = self._sampler.likeliest(*outcome.likeliest)
            return _result(plan, [(slice(None), choice)], forward_s, time.perf_counter() - start - forward_s)
        sample_s = 0.0
        parts: list[tuple[_Entries, Choice]] = []
        for entries, sampled in _slices(plan):
            start = time.perf_counter()
            # Logits for these rows only: a vocabulary is too wide to have them for every token of a prompt.
            rows = plan.logits_rows[entries].tolist()
            logits = self._model.logits(outcome.hidden[entries])
            middle = time.perf_counter()
            if sampled:
                choice = self._sampler.sample(logits, rows)
            else:
                choice = self._sampler.score(logits, rows, plan.targets[entries])
            parts.append((entries, choice))
            forward_s += middle - start
            sample_s += time.perf_counter() - middle
        return _result(plan, parts, forward_s, sample_s)

    def _single_out(self) -> None:
        """Find the outliers of matmuls in integers, before the first step: by a few tokens in blocks not yet lent."""
        count = min(outliers.NUM_TOKENS, self.max_total_tokens)
        blocks = np.arange(-(-count // self.block_size), dtype=np.int32)
        places = np.arange(count, dtype=np.int32)
        batch = ForwardBatch(
            input_ids=outliers.tokens(self.vocab_size, count),
            positions=places,
            slot_mapping=places.astype(np.int64),
            query_starts=np.array([0, count], dtype=np.int32),
            context_lens=np.array([count], dtype=np.int32),
            block_tables=blocks[None],
            rope_variants=np.zeros(1, dtype=np.int32),
            logits_indices=None,
        )
        with outliers.watched():
            self._model.logits(self._model.forward(batch, self._caches))
        self._outliers_known = True


def _chooses_all(plan: StepPlan) -> bool:
    """Whether a token is chosen for every logits entry, of which there are few enough to go through at once."""
    return 0 < len(plan.sample) <= LOGITS_ROWS and 0 not in plan.sample.tobytes()


def _result(plan: StepPlan, parts: list[tuple[_Entries, Choice]], forward_s: float, sample_s: float) -> StepResult:
    """The choices for parts of a plan's logits entries as one."""
    if len(parts) == 1 and isinstance(parts[0][0], slice):
        choice = parts[0][1]
        return StepResult(
            plan.logits_rows, choice.token_ids, choice.logprobs, choice.top, choice.failed, forward_s, sample_s
        )
    token_ids = plan.targets.copy()
    logprobs = np.full(len(token_ids), np.nan, dtype=np.float32)
    top: dict[int, TopTokens] = {}
    failed: dict[int, str] = {}
    for entries, choice in parts:
        token_ids[entries], logprobs[entries] = choice.token_ids, choice.logprobs
        places = np.arange(len(token_ids))[entries].tolist()
        top |= {places[entry]: tokens for entry, tokens in choice.top.items()}
        failed |= {places[entry]: reason for entry, reason in choice.failed.items()}
    return StepResult(plan.logits_rows, token_ids, logprobs, top, failed, forward_s, sample_s)


def _quantization(loader: Loader, integers: bool) -> str | None:
    """How weights are stored, and multiplied: "q4_1", "int8", "q4_1 in int8 arithmetic"; None for floats."""
    stored = None if loader.layout in FLOATS else loader.layout.lower()
    if not integers:
        return stored
    return "int8" if loader.converted else f"{stored} in int8 arithmetic"


def _int8_cache() -> int8.Cache:
    return int8.Cache(Path(platformdirs.user_cache_dir("tgi")) / "int8")


def _slices(plan: StepPlan) -> Iterator[tuple[_Entries, bool]]:
    """The plan's logits entries, at most LOGITS_ROWS at a time, and whether a token is chosen for them."""
    if _chooses_all(plan):  # the common step: no column is copied
        yield slice(None), True
        return
    for sampled in (True, False):
        entries = np.flatnonzero(plan.sample == sampled)
        for start in range(0, len(entries), LOGITS_ROWS):
            yield entries[start : start + LOGITS_ROWS], sampled


def _zeros(shape: tuple[int, ...], layout: str) -> Array:
    """An array whose memory the operating system hands out, zeroed, page by page as it is first written."""
    dtype = STORED[layout]
    size = int(np.prod(shape)) * dtype.itemsize
    # The first token of a request would wait for the system to find, and to clear, a huge page in every layer.
    return pages(size, huge=False).view(dtype).reshape(shape)


def _scratch_plan(first: int, last: int, started: tuple[RowState, ...]) -> StepPlan:
    """Positions `first` to `last` of one request in block 0, whose last token is followed by a choice."""
    positions = np.arange(first, last, dtype=np.int32)
    return StepPlan(
        input_ids=np.zeros(last - first, dtype=np.int32),
        positions=positions,
        slot_mapping=positions.astype(np.int64),
        query_starts=np.array([0, last - first], dtype=np.int32),
        context_lens=np.array([last], dtype=np.int32),
        block_tables=np.zeros((1, 1), dtype=np.int32),
        rope_variants=np.zeros(1, dtype=np.int32),
        logits_indices=np.array([last - first - 1], dtype=np.int32),
        logits_rows=np.zeros(1, dtype=np.int32),
        sample=np.ones(1, dtype=np.bool_),
        targets=np.full(1, -1, dtype=np.int32),
        started=started,
    )
