"""One request inside the engine: what was asked, and how far it got."""

from __future__ import annotations

import numpy as np

from tgi.engine.blocks import block_hash, root_hash
from tgi.engine.messages import EngineRequest
from tgi.runner.plan import Float32, Int32, RowState
from tgi.sampling import TopTokens


class Request:
    """The state of one request. While it runs, its growing facts are columns of `Rows`, at index `row`."""

    def __init__(self, spec: EngineRequest, rope_variant: int) -> None:
        self.spec = spec  # never changed
        self.prompt_ids: Int32 = np.frombuffer(spec.prompt_ids, np.int32)
        # Prompt and output as of the last time the request was not running.
        self.token_ids: Int32 = np.concatenate((self.prompt_ids, np.frombuffer(spec.output_ids, np.int32)))
        self.rope_variant = rope_variant
        self.row = -1  # permanent while running, which is to hold a row and blocks; -1 else
        self.blocks: list[int] = []  # position p is in blocks[p // block_size]
        self.preemptions = 0
        self.num_remembered = 0  # of its blocks while it runs, those that others may find
        # Log-probabilities of the prompt collected so far; None when not wanted, or delivered.
        self.prompt_logprobs: Float32 | None = None
        if spec.prompt_logprobs:
            self.prompt_logprobs = np.full(len(self.prompt_ids), np.nan, np.float32)
        self.prompt_top: dict[int, TopTokens] = {}  # by position, beside them
        self._root = root_hash(spec.cache_salt, rope_variant)
        self.known_hashes: list[bytes] = []  # those asked for so far

    @property
    def longest(self) -> int:
        """Tokens the request can reach: prompt and output together."""
        return len(self.prompt_ids) + self.spec.max_new_tokens

    def block_hashes(self, token_ids: Int32, count: int, block_size: int) -> list[bytes]:
        """Chained hashes of the first `count` full blocks of `token_ids`, which are this request's tokens."""
        hashes = self.known_hashes
        for start in range(len(hashes) * block_size, count * block_size, block_size):
            parent = hashes[-1] if hashes else self._root
            hashes.append(block_hash(parent, token_ids[start : start + block_size].tobytes()))
        return hashes[:count]

    def row_state(self) -> RowState:
        """What the sampler needs to know when the request takes a row."""
        return RowState(
            row=self.row,
            sampling=self.spec.sampling,
            prompt_ids=self.prompt_ids,
            output_ids=self.token_ids[len(self.prompt_ids) :],
            top_tokens=self.spec.top_tokens,
            prompt_logprobs=self.prompt_logprobs is not None,
            stop_ids=self.spec.stop_ids,
        )
