"""BlockAllocator: who borrows what, and which free blocks can be found again."""

from __future__ import annotations

import pytest

from tgi.engine.blocks import BlockAllocator, OutOfBlocks, block_hash, root_hash


def test_tail_of_a_released_request_is_reused_before_its_prefix() -> None:
    allocator = BlockAllocator(num_blocks=4)  # three to lend: block 0 is scratch
    prefix, middle, tail = allocator.allocate(3)
    allocator.release([prefix, middle, tail])
    assert allocator.allocate(3) == [tail, middle, prefix]


def test_the_prefix_that_was_freed_first_is_forgotten_first() -> None:
    allocator = BlockAllocator(num_blocks=4)
    first, second, third = allocator.allocate(3)
    for block in (second, third, first):
        allocator.remember(block, b"%d" % block)
        allocator.release([block])
    assert allocator.allocate(2) == [second, third]


def test_blocks_that_nobody_can_find_again_are_reused_before_memory_that_was_never_written() -> None:
    allocator = BlockAllocator(num_blocks=100)
    used = set()
    for _ in range(50):
        blocks = allocator.allocate(5)
        used |= set(blocks)
        allocator.release(blocks)
    assert len(used) == 5


def test_a_remembered_prefix_is_kept_for_as_long_as_there_is_any_other_block() -> None:
    allocator = BlockAllocator(num_blocks=10)
    prefix, tail = allocator.allocate(2)
    allocator.remember(prefix, b"prefix")
    allocator.release([prefix, tail])
    assert prefix not in allocator.allocate(8)
    assert allocator.match([b"prefix"]) == [prefix]


def test_scratch_block_is_never_lent() -> None:
    allocator = BlockAllocator(num_blocks=5)
    assert sorted(allocator.allocate(4)) == [1, 2, 3, 4]


def test_too_large_a_loan_takes_nothing() -> None:
    allocator = BlockAllocator(num_blocks=4)
    with pytest.raises(OutOfBlocks, match="wanted 4 KV blocks, 3 free"):
        allocator.allocate(4)
    assert allocator.num_free == 3


def test_longest_remembered_prefix_is_lent_again_and_counted() -> None:
    allocator = BlockAllocator(num_blocks=8)
    blocks = allocator.allocate(3)
    hashes = [b"first", b"second", b"third"]
    for block, content in zip(blocks[:2], hashes, strict=False):
        allocator.remember(block, content)
    assert allocator.count_free_matches(hashes) == (2, 0)
    assert allocator.match(hashes) == blocks[:2]
    assert [allocator.borrowers(block) for block in blocks] == [2, 2, 1]
    allocator.release(blocks)
    assert allocator.num_free == 5  # the matched two are still borrowed
    allocator.release(blocks[:2])
    assert allocator.count_free_matches(hashes) == (2, 2)
    assert allocator.match([b"other", *hashes]) == []


def test_a_remembered_block_is_forgotten_when_it_is_lent_for_new_content() -> None:
    allocator = BlockAllocator(num_blocks=3)
    first, second = allocator.allocate(2)
    allocator.remember(first, b"first")
    allocator.release([first, second])
    assert allocator.allocate(1) == [second]
    assert allocator.count_free_matches([b"first"]) == (1, 1)
    assert allocator.allocate(1) == [first]
    assert allocator.match([b"first"]) == []


def test_the_first_block_with_some_content_keeps_being_found() -> None:
    allocator = BlockAllocator(num_blocks=3)
    first, second = allocator.allocate(2)
    allocator.remember(first, b"same")
    allocator.remember(second, b"same")
    allocator.release([second])
    assert allocator.allocate(1) == [second]
    assert allocator.match([b"same"]) == [first]


def test_a_promise_holds_until_its_maker_takes_it_back() -> None:
    allocator = BlockAllocator(num_blocks=3)
    allocator.promise([b"first", b"second"], request_id=1)
    allocator.promise([b"second"], request_id=2)  # whoever promises first keeps the promise
    allocator.retract([b"second", b"other"], request_id=2)
    assert allocator.is_promised(b"first")
    assert allocator.is_promised(b"second")
    allocator.retract([b"second"], request_id=1)
    assert not allocator.is_promised(b"second")
    assert allocator.is_promised(b"first")


def test_a_block_cannot_be_released_more_often_than_lent() -> None:
    allocator = BlockAllocator(num_blocks=3)
    blocks = allocator.allocate(1)
    allocator.release(blocks)
    with pytest.raises(AssertionError, match="released more often"):
        allocator.release(blocks)


def test_hashes_depend_on_everything_before_a_block_and_on_who_may_share_it() -> None:
    ids = b"\x01\x00\x00\x00" * 4
    roots = {root_hash("", 0), root_hash("a", 0), root_hash("", 1), root_hash("1/", 0)}
    assert len(roots) == 4
    hashes = {block_hash(root, ids) for root in roots}
    assert len(hashes) == 4
    assert block_hash(root_hash("", 0), ids) in hashes
    assert block_hash(block_hash(root_hash("", 0), ids), ids) not in hashes
