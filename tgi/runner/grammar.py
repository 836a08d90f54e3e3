"""Where a row's output is in its grammar, and what may come next; found in threads beside the forward pass."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tgi.runner.logits import Bool, unpack_bits
from tgi.runner.plan import Int32, RowState

if TYPE_CHECKING:
    from tgi.guidance.mask import LoadTokenizer


class Matcher(Protocol):
    """A place in a grammar."""

    def fill(self, bitmask: Int32) -> None:
        """Write which tokens may come next: bit t % 32 of word t // 32 stands for token t. Nothing: it is complete."""

    def accept(self, token_id: int) -> None:
        """Go on by a token. Raises: ValueError when it may not come here."""


class GrammarFactory(Protocol):
    """Makes matchers of `SamplingParams.grammar`; called from several threads at once."""

    def matcher(self, grammar: str) -> Matcher:
        """The beginning of a grammar. Raises: ValueError when it is none."""


class LateMatchers:
    """`tgi.guidance.mask.Matchers`, imported with the first grammar: most engines never see one."""

    def __init__(self, load: LoadTokenizer, width: int) -> None:
        self._load = load
        self._width = width
        self._lock = threading.Lock()
        self._matchers: GrammarFactory | None = None

    def matcher(self, grammar: str) -> Matcher:
        """See `GrammarFactory.matcher`."""
        from tgi.guidance.mask import Matchers  # noqa: PLC0415

        with self._lock:
            if self._matchers is None:
                self._matchers = Matchers(self._load, self._width)
        return self._matchers.matcher(grammar)


class RowGrammar:
    """The grammar of one row. `allowed` runs in a thread, never twice at once; `append` only in between."""

    def __init__(self, factory: GrammarFactory | None, state: RowState, vocab_size: int) -> None:
        self._factory = factory
        self._grammar = state.sampling.grammar
        self._matcher: Matcher | None = None
        self._unread: list[int] = state.output_ids.tolist()  # chosen, and not yet accepted
        self._stop_ids = state.stop_ids
        self._vocab_size = vocab_size
        self._bitmask = np.zeros((1, -(-vocab_size // 32)), np.int32)

    def append(self, token_id: int) -> None:
        """Take a chosen token into account; one that ends the request is none of the grammar's."""
        if token_id not in self._stop_ids:
            self._unread.append(token_id)

    def allowed(self) -> Bool:
        """What may come next: [1, vocab] bool. When the grammar is complete, only stop ids may.

        Raises: whatever the matcher raises; the row then fails, and nothing else.
        """
        if self._matcher is None:
            if self._factory is None:
                raise ValueError("this engine knows no grammars")
            self._matcher = self._factory.matcher(self._grammar)
        for token_id in self._unread:
            self._matcher.accept(token_id)
        self._unread.clear()
        self._bitmask.fill(0)
        self._matcher.fill(self._bitmask[0])
        allowed = unpack_bits(self._bitmask, self._vocab_size)
        if not self._bitmask.any():
            allowed[0, list(self._stop_ids)] = True
        return allowed
