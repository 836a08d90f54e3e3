"""Prompts have exactly the tokens asked for, and differ."""

from __future__ import annotations

import pytest

from tests.bench.fake_server import FakeServer, serve
from tests.server.serving import byte_level, sentence_piece
from tgi.bench.client import open_session
from tgi.bench.endpoint import connect
from tgi.bench.prompts import LocalCounter, ServerCounter, prompt_maker
from tgi.errors import ConfigError


class Words:
    """A tokenizer of one token a word, and so many special ones; "people" is two, and each counting is counted."""

    def __init__(self, special: int = 0) -> None:
        self.special = special
        self.asked = 0

    async def count(self, text: str) -> int:
        self.asked += 1
        return self.special + sum(2 if word == "people" else 1 for word in text.split())


@pytest.mark.parametrize("special", [0, 1, 30])
@pytest.mark.parametrize("tokens", [31, 32, 128, 1000])
async def test_a_prompt_has_exactly_its_tokens_special_ones_included(special: int, tokens: int) -> None:
    counter = Words(special)
    maker = await prompt_maker(counter, 1)
    assert all([await counter.count(await maker.make(number, tokens)) == tokens for number in range(20)])


async def test_words_of_one_token_are_found_once_and_need_no_further_counting() -> None:
    counter = Words()
    maker = await prompt_maker(counter, 1)
    assert counter.asked < 40
    counter.asked = 0
    for number in range(100):
        assert "people" not in (await maker.make(number, 500)).split()
    assert counter.asked == 0


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_level(add_bos=True), sentence_piece()])
@pytest.mark.parametrize("tokens", [10, 57, 200])
async def test_tokenizers_without_words_give_exact_prompts_too(tokenizer: object, tokens: int) -> None:
    counter = LocalCounter(tokenizer)  # type: ignore[arg-type]
    maker = await prompt_maker(counter, 1)
    for number in range(3):
        assert await counter.count(await maker.make(number, tokens)) == tokens


async def test_prompts_differ_by_number_and_by_seed_and_come_again_with_both() -> None:
    maker, same, other = [await prompt_maker(Words(), seed) for seed in (1, 1, 2)]
    prompts = [await maker.make(number, 50) for number in range(50)]
    assert len(set(prompts)) == 50
    assert prompts == [await same.make(number, 50) for number in range(50)]
    assert not set(prompts) & {await other.make(number, 50) for number in range(50)}


async def test_a_shared_prefix_is_shared_and_the_rest_is_not() -> None:
    maker = await prompt_maker(Words(), 1)
    first, second = [(await maker.make(number, 60, shared=40)).split() for number in (1, 2)]
    assert len(first) == len(second) == 60
    assert first[:40] == second[:40]
    assert first[40:] != second[40:]


async def test_a_prompt_shorter_than_its_template_is_refused_with_the_shortest() -> None:
    maker = await prompt_maker(Words(special=30), 1)
    with pytest.raises(ConfigError, match=r"no prompt has 10 tokens here: the shortest has 31") as refused:
        await maker.make(0, 10)
    assert "--sequence-length 31" in str(refused.value.hint)


@pytest.mark.parametrize("server", [
    FakeServer(), FakeServer(tgi=False), FakeServer(tgi=False, completions=False),
    FakeServer(tgi=False, tokenize=False), FakeServer(tgi=False, completions=False, tokenize=False),
])  # fmt: skip
async def test_the_server_counts_by_tokenize_or_by_usage(server: FakeServer) -> None:
    async with serve(server) as url, open_session(10.0) as session:
        endpoint = await connect(session, url)
        counter = ServerCounter(session, endpoint)
        template = server.template_tokens if endpoint.protocol == "chat" else 0
        assert await counter.count("one two three") == 3 + template
        assert await counter.count(await (await prompt_maker(counter, 0)).make(1, 77)) == 77


async def test_a_server_that_tells_nothing_is_answered_with_the_flag_to_use() -> None:
    async with serve(FakeServer(tokenize=False)) as url, open_session(10.0) as session:
        endpoint = await connect(session, url)
        with pytest.raises(ConfigError, match="does not tell how many tokens") as refused:
            await ServerCounter(session, endpoint).count("hello")
    assert "--tokenizer-name" in str(refused.value.hint)
