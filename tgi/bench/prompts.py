"""Prompts of exactly so many tokens, each different, by the tokenizer that will read them.

Words of one token each are looked for once; a prompt is then a row of them, chosen by (seed, number), and needs no
further counting. A tokenizer that has no such words (bytes, for example) is asked for every prompt instead.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import aiohttp
import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from tgi.bench.endpoint import Endpoint
from tgi.bench.streams import CHAT
from tgi.errors import ConfigError

_TEXT = """
    the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
    what all were we when your can said there use an each which she do how their if will up other about out many then
    them these so some her would make like him into time has look two more write go see number no way could people my
    than first water been call who its now find long down day did get come made may part over new sound take only
    little work know place year live me back give most very after thing our just name good man think say great where
    help through much before line right too mean old any same tell boy follow came want show also around form three
    small set put end does another well large must big even such because turn here why ask went men read need land
    different home us move try kind hand picture again change off play air away house point page letter mother answer
    found study still learn should world high every near add food between own below country plant last school father
    keep tree never start city earth eye light thought head under story saw left few while along might close something
"""
WORDS = tuple(_TEXT.split())
FIRST = "the"
_PADDING = (" a", "a", " .", ".", " the", "!", "x")


class Counter(Protocol):
    """Knows how many tokens a prompt has where it will be read, special tokens and chat template included."""

    async def count(self, text: str) -> int:
        """The tokens of a prompt."""


class LocalCounter:
    """Counts with a tokenizer of this machine; `extra` is what the server's chat template adds."""

    def __init__(self, tokenizer: Tokenizer, *, extra: int = 0) -> None:
        self._tokenizer = tokenizer
        self._extra = extra

    async def count(self, text: str) -> int:
        """The tokens of a prompt."""
        return len(self._tokenizer.encode(text).ids) + self._extra


class _Usage(Struct):
    prompt_tokens: int


class _UsageAnswer(Struct):
    usage: _Usage


class _Count(Struct):
    count: int


class ServerCounter:
    """Counts with the server's `/tokenize`, or where it has none, by the usage of a request for one token."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        self._session = session
        self._endpoint = endpoint
        self._has_tokenize: bool | None = None

    async def count(self, text: str) -> int:
        """The tokens of a prompt. Raises: ConfigError where the server has no way to tell."""
        if self._has_tokenize is not False:
            found = await self._tokenize(text)
            self._has_tokenize = found is not None
            if found is not None:
                return found
        return await self._usage(text)

    async def _tokenize(self, text: str) -> int | None:
        endpoint = self._endpoint
        bodies: list[dict[str, object]] = [{"inputs": text}]  # TGI
        if endpoint.protocol == CHAT:
            message = {"role": "user", "content": text}
            bodies = [{"model": endpoint.target.model.id, "messages": [message], "add_generation_prompt": True}]
        elif endpoint.info is None:
            bodies = [{"model": endpoint.target.model.id, "prompt": text}, *bodies]  # vLLM
        for body in bodies:
            data = await self._post(f"{endpoint.base}/tokenize", body)
            if data is None:
                continue
            try:
                found = msgspec.json.decode(data)
                return len(found) if isinstance(found, list) else msgspec.convert(found, _Count).count
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue
        return None

    async def _usage(self, text: str) -> int:
        endpoint = self._endpoint
        body = msgspec.json.decode(endpoint.body(text, 1))
        body.pop("stream_options", None)
        data = await self._post(endpoint.route, {**body, "stream": False})
        try:
            return msgspec.json.decode(data or b"", type=_UsageAnswer).usage.prompt_tokens
        except msgspec.DecodeError:
            raise ConfigError(
                f"`{endpoint.base}` does not tell how many tokens a prompt has",
                hint="name its tokenizer: `--tokenizer-name ID_OR_FOLDER`",
            ) from None

    async def _post(self, url: str, body: dict[str, object]) -> bytes | None:
        try:
            async with self._session.post(
                url, data=msgspec.json.encode(body), headers=self._endpoint.headers
            ) as response:
                data = await response.read()
                return data if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return None


class PromptMaker:
    """Makes prompts; get one from `prompt_maker()`."""

    def __init__(self, counter: Counter, words: Sequence[str], overhead: int, seed: int) -> None:
        self._counter = counter
        self._words = words  # of one token each after a space; empty: every prompt is counted
        self._overhead = overhead
        self._seed = seed

    @property
    def smallest(self) -> int:
        """Tokens of the shortest prompt there can be."""
        return self._overhead + 1

    async def make(self, number: int, tokens: int, *, shared: int = 0) -> str:
        """A prompt of exactly `tokens` tokens; the first `shared` of them are those of every prompt.

        Raises: ConfigError where the tokenizer, or the template around the prompt, allows none of that length.
        """
        if tokens < self.smallest:
            raise ConfigError(
                f"no prompt has {tokens} tokens here: the shortest has {self.smallest}, special tokens and chat "
                "template included",
                hint=f"give `--sequence-length {self.smallest}` or more",
            )
        words = self._row(number, tokens - self._overhead, shared)
        if self._words:
            return " ".join(words)
        return await self._fit(words, tokens)

    async def follow(self, number: int, tokens: int) -> str:
        """Text to go on with in a conversation, of about `tokens` tokens (exactly, where words are tokens)."""
        words = random.Random(f"{self._seed}/{number}").choices(self._words or WORDS, k=tokens)
        return " " + " ".join(words)

    def _row(self, number: int, count: int, shared: int) -> list[str]:
        words = self._words or WORDS
        # A word may be other tokens in the first place than after a space, so that the first one is always the same.
        common = [FIRST, *random.Random(f"{self._seed}").choices(words, k=max(0, min(shared, count) - 1))]
        return common + random.Random(f"{self._seed}/{number}").choices(words, k=count - len(common))

    async def _fit(self, words: list[str], tokens: int) -> str:
        """The longest row of words that is not too long, filled up with characters."""
        low, high = 0, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            if await self._counter.count(" ".join(words[:middle])) <= tokens:
                low = middle
            else:
                high = middle - 1
        text = " ".join(words[:low])
        count = await self._counter.count(text)
        while count < tokens:
            for padding in _PADDING:
                longer = await self._counter.count(text + padding)
                if count < longer <= tokens:
                    text, count = text + padding, longer
                    break
            else:
                raise ConfigError(
                    f"no prompt of exactly {tokens} tokens was found; one has {count}",
                    hint=f"give `--sequence-length {count}`",
                )
        return text


async def prompt_maker(counter: Counter, seed: int) -> PromptMaker:
    """A maker of prompts for a tokenizer, found out by a few countings."""
    two = await counter.count(f"{FIRST} {FIRST}")
    words: tuple[str, ...] = ()
    if await counter.count(f"{FIRST} {FIRST} {FIRST}") == two + 1:
        words = await _single(counter, WORDS, two - 1)
    if len(words) >= len(WORDS) // 4:
        row = [FIRST, *random.Random(seed).choices(words, k=200)]
        if await counter.count(" ".join(row)) == two - 2 + len(row):  # else words join, in some order
            return PromptMaker(counter, words, two - 2, seed)
    return PromptMaker(counter, (), max(0, await counter.count("a") - 1), seed)


async def _single(counter: Counter, words: Sequence[str], first: int) -> tuple[str, ...]:
    """Those of the words that are one token after a space; a prompt of `FIRST` alone has `first` tokens."""
    if await counter.count(" ".join((FIRST, *words))) == first + len(words):
        return tuple(words)
    if len(words) == 1:
        return ()
    middle = len(words) // 2
    return (*await _single(counter, words[:middle], first), *await _single(counter, words[middle:], first))
