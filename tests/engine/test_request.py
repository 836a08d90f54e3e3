"""Request: what is derived from what was asked."""

from __future__ import annotations

import numpy as np

from tests.fakes import make_request
from tgi.engine.request import Request


def test_tokens_given_by_an_earlier_engine_count_as_tokens_not_as_prompt() -> None:
    request = Request(make_request(1, [1, 2, 3], 10, output_ids=[4, 5]), rope_variant=0)
    assert request.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert request.longest == 13
    assert request.row < 0
    state = request.row_state()
    assert (state.prompt_ids.tolist(), state.output_ids.tolist()) == ([1, 2, 3], [4, 5])


def test_block_hashes_are_equal_exactly_where_prefix_salt_and_rotation_are() -> None:
    def hashes(ids: list[int], salt: str = "", variant: int = 0) -> list[bytes]:
        request = Request(make_request(1, ids, cache_salt=salt), variant)
        return request.block_hashes(request.token_ids, len(ids) // 2, 2)

    base = hashes([1, 2, 3, 4])
    assert len(base) == 2
    assert hashes([1, 2, 3, 4, 5])[:2] == base
    assert hashes([1, 2, 9, 4])[0] == base[0]
    for other in (
        hashes([1, 2, 9, 4])[1:],
        hashes([9, 2, 3, 4]),
        hashes([1, 2, 3, 4], "a"),
        hashes([1, 2, 3, 4], "", 1),
    ):
        assert not set(other) & set(base)


def test_hashes_grow_with_the_tokens_and_keep_their_beginning() -> None:
    request = Request(make_request(1, [1, 2]), 0)
    first = list(request.block_hashes(request.token_ids, 1, 2))
    longer = np.array([1, 2, 3, 4, 5], np.int32)
    assert request.block_hashes(longer, 2, 2)[:1] == first
    assert len(request.block_hashes(longer, 2, 2)) == 2
    assert request.block_hashes(longer, 1, 2) == first


def test_prompt_log_probabilities_are_collected_only_where_wanted() -> None:
    assert Request(make_request(1, [1, 2]), 0).prompt_logprobs is None
    wanted = Request(make_request(1, [1, 2], prompt_logprobs=True), 0)
    assert wanted.prompt_logprobs is not None
    assert np.isnan(wanted.prompt_logprobs).tolist() == [True, True]
    assert wanted.row_state().prompt_logprobs
