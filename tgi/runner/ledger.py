"""What an engine settled on when it started. Read by the front end too, so without arrays."""

from __future__ import annotations

import msgspec


class Choice(msgspec.Struct, frozen=True):
    """A limit the engine settled on, and why."""

    name: str  # of the flag that sets it, without hyphens before it
    value: str
    reason: str


class MemoryLedger(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's memory is spent on, in bytes; the number of KV blocks follows from it."""

    weights: int  # mapped or resident parameters
    activations: int  # peak of the largest step
    kv_block: int  # one block of all layers
    kv_cache: int  # num_blocks * kv_block
    available: int  # what the machine offered when the ledger was made
    choices: tuple[Choice, ...] = ()  # the limits that follow, and why
