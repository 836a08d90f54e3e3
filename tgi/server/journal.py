"""What the front end remembers of each live sequence: enough to rebuild it in another engine, token for token."""

from __future__ import annotations

import time
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from tgi.engine.messages import EngineRequest


@dataclass(slots=True)
class Sequence:
    """One live sequence."""

    request: EngineRequest  # as admitted
    output_ids: array[int] = field(default_factory=lambda: array("i"))  # tokens given to the client
    submitted: bool = False  # the current engine has it
    begun: bool = False  # it left that engine's waiting queue
    suspect: bool = False  # it may be what kills engines: it runs alone until it gains a token
    length_at_crash: int | None = None  # output tokens it had when a step with it last killed an engine
    paused_at: float | None = None  # monotonic seconds; the death of an engine that ran it, until its next token

    @property
    def num_bytes(self) -> int:
        """Memory of its token ids, four bytes each."""
        return len(self.request.prompt_ids) + 4 * len(self.output_ids)

    def resubmission(self) -> EngineRequest:
        """The request that continues this sequence exactly where the client stopped hearing of it."""
        if not self.output_ids:
            return self.request
        # Log-probabilities of the prompt came with the first token.
        return msgspec.structs.replace(self.request, output_ids=self.output_ids.tobytes(), prompt_logprobs=False)


class JournalGap(Exception):
    """An engine skipped a token: a bug of ours, never hidden by going on."""


class Journal:
    """All live sequences, in order of arrival, and what is known about their part in crashes.

    A sequence becomes a suspect when it was in a step that killed its engine and gained no token since the previous
    such step. Suspects run one at a time; one that kills its engine alone is the culprit (spec/reliability.md R10).
    """

    def __init__(self) -> None:
        self._sequences: dict[int, Sequence] = {}
        self._num_suspects = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(tuple(self._sequences.values()))

    @property
    def isolating(self) -> bool:
        """Whether suspects have to run one at a time."""
        return self._num_suspects > 0

    @property
    def num_bytes(self) -> int:
        """Memory of the token ids it keeps."""
        return sum(sequence.num_bytes for sequence in self._sequences.values())

    @property
    def waiting_tokens(self) -> int:
        """Tokens of sequences that no engine has begun, or not again."""
        return sum(sequence.num_bytes for sequence in self._sequences.values() if not sequence.begun) // 4

    @property
    def running(self) -> tuple[str, ...]:
        """What the engine is amid: "prefill" of sequences without a token, "decode" of others, both or nothing."""
        return self.methods(request_id for request_id, sequence in self._sequences.items() if sequence.begun)

    def methods(self, request_ids: Iterable[int]) -> tuple[str, ...]:
        """What a step with these sequences is: "prefill" of those without a token, "decode" of others."""
        known = [sequence for request_id in request_ids if (sequence := self.get(request_id)) is not None]
        begun = [bool(sequence.output_ids) for sequence in known]
        return ("prefill",) * (not all(begun)) + ("decode",) * any(begun)

    def add(self, request: EngineRequest) -> None:
        """Remember a new sequence."""
        assert request.id not in self._sequences, f"request id {request.id} is in use"
        self._sequences[request.id] = Sequence(request)

    def get(self, request_id: int) -> Sequence | None:
        """A live sequence."""
        return self._sequences.get(request_id)

    def remove(self, request_id: int) -> Sequence | None:
        """Forget a sequence: it is complete, failed or aborted."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._num_suspects -= sequence.suspect
        return sequence

    def record(self, request_id: int, index: int, token_id: int) -> bool:
        """Note an output token. Returns: False when it is known already, or nobody waits for it any more.

        Raises: JournalGap if tokens before it are missing.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None or index < len(sequence.output_ids):
            return False
        if index > len(sequence.output_ids):
            raise JournalGap(f"output {index} came after output {len(sequence.output_ids) - 1}")
        sequence.output_ids.append(token_id)
        return True

    def clear(self, sequence: Sequence) -> None:
        """A suspect gained a token: it did not do it."""
        self._num_suspects -= sequence.suspect
        sequence.suspect = False

    def crashed(self, members: Collection[int] | None) -> Sequence | None:
        """Note that the engine died in a step of these requests (None: of all that had begun).

        Returns: the culprit, if the step proves one; it is for the caller to fail it.
        """
        submitted = [sequence for sequence in self if sequence.submitted]
        culprit = None
        for sequence in submitted:
            member = sequence.begun if members is None else sequence.request.id in members
            if member:
                if sequence.suspect and len(submitted) == 1:
                    culprit = sequence
                elif sequence.length_at_crash == len(sequence.output_ids):
                    self._num_suspects += not sequence.suspect
                    sequence.suspect = True
                sequence.length_at_crash = len(sequence.output_ids)
            if sequence.begun and sequence.paused_at is None:
                sequence.paused_at = time.monotonic()
            sequence.submitted = sequence.begun = False
        return culprit

    def due(self) -> list[Sequence]:
        """Sequences to be given to the engine now: all it does not have, or one suspect when it has nothing else."""
        if not self.isolating:
            return [sequence for sequence in self if not sequence.submitted]
        if any(sequence.submitted for sequence in self):
            return []
        return [next(sequence for sequence in self if sequence.suspect)]
