"""Which KV cache block belongs to whom, and which free blocks still hold a prefix worth finding."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence

# Every chain begins with a key nobody outside this process knows, so that collisions cannot be prepared.
_KEY = secrets.token_bytes(32)


class OutOfBlocks(Exception):
    """More blocks were wanted than are free."""

    def __init__(self, wanted: int, free: int) -> None:
        super().__init__(f"wanted {wanted} KV blocks, {free} free")


def root_hash(salt: str, rope_variant: int) -> bytes:
    """The parent of a request's first block: requests that may not share blocks begin with different ones.

    `salt` separates clients (spec/reliability.md V24); `rope_variant` separates lengths that rotate keys differently.
    """
    return hashlib.blake2b(f"{rope_variant}/{salt}".encode(), digest_size=16, key=_KEY).digest()


def block_hash(parent: bytes, token_ids: bytes) -> bytes:
    """What a full block holds, and all blocks before it: 128 bits chained over the parent and the block's ids.

    Shapes: `token_ids` is an int32 column of block_size ids.
    """
    return hashlib.blake2b(parent + token_ids, digest_size=16).digest()  # the root is secret: no key is needed again


class BlockAllocator:
    """Lends KV cache blocks to requests, counting borrowers so that prefixes can be shared.

    A free block may still hold a remembered prefix: it is lent again by `match()`, until `allocate()` needs the room.
    """

    def __init__(self, num_blocks: int) -> None:
        # Block 0 is scratch: padded rows write there, so it is never lent.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self._borrowers = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._cached: dict[bytes, int] = {}
        self._promised: dict[bytes, int] = {}  # content -> the request that is computing it
        self.num_lendable = num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that `allocate()` can lend now, those with a remembered prefix included."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Lend `count` blocks, those without a remembered prefix first, then the least recently freed; they forget it.

        Takes nothing when it cannot take all, so a caller never has to undo half a loan.

        Returns: block ids, each in [1, num_blocks).
        Raises:  OutOfBlocks; the scheduler answers by preempting the newest request.
        Source:  PagedAttention (Kwon et al., 2023), section 4.3.
        """
        if count > len(self._free):
            raise OutOfBlocks(count, len(self._free))
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._borrowers[block] = 1
            content = self._hashes[block]
            if content is not None:
                del self._cached[content]
                self._hashes[block] = None
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Take back one loan of each block of one request, given in order of position.

        The tail becomes free first, so that it is reused before the prefix it depends on. Blocks that nobody can find
        again are reused before all others, so that memory that was never written stays untouched for as long as it can.
        """
        for block in reversed(blocks):
            assert self._borrowers[block] > 0, f"block {block} released more often than lent"
            self._borrowers[block] -= 1
            if self._borrowers[block] == 0:
                self._free[block] = None
        for block in blocks:
            if self._borrowers[block] == 0 and self._hashes[block] is None:
                self._free.move_to_end(block, last=False)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Lend the blocks that hold the longest remembered prefix of `hashes`, in order."""
        blocks = []
        for content in hashes:
            block = self._cached.get(content)
            if block is None:
                break
            if self._borrowers[block] == 0:
                del self._free[block]
            self._borrowers[block] += 1
            blocks.append(block)
        return blocks

    def count_free_matches(self, hashes: Iterable[bytes]) -> tuple[int, int]:
        """What `match(hashes)` would lend, without lending: how many blocks, and how many of them are free now."""
        matched = free = 0
        for content in hashes:
            block = self._cached.get(content)
            if block is None:
                break
            matched += 1
            free += self._borrowers[block] == 0
        return matched, free

    def remember(self, block: int, content: bytes) -> None:
        """Let `match()` find a full, computed block by its hash. The first block with some content keeps it."""
        assert self._borrowers[block] > 0, f"block {block} remembered while nobody borrows it"
        if self._hashes[block] is None and content not in self._cached:
            self._hashes[block] = content
            self._cached[content] = block

    def promise(self, hashes: Iterable[bytes], request_id: int) -> None:
        """Say that a request begins to compute these blocks; `retract` when it has, or stops running."""
        for content in hashes:
            self._promised.setdefault(content, request_id)

    def retract(self, hashes: Iterable[bytes], request_id: int) -> None:
        """Take promises of one request back; those it never made are ignored."""
        for content in hashes:
            if self._promised.get(content) == request_id:
                del self._promised[content]

    def is_promised(self, content: bytes) -> bool:
        """Whether some request is computing a block of this content right now."""
        return content in self._promised

    def borrowers(self, block: int) -> int:
        """How many requests borrow a block; 0 when it is free."""
        return self._borrowers[block]
