"""Text to token ids and back, away from the event loop.

Encoding runs in threads through `encode_batch_fast`: `Tokenizer.encode` keeps the interpreter lock, which would stall
every stream for as long as a long prompt takes (2.2 s for 2 MB of one letter; a batch of one stalls nothing).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import tokenizers

from tgi.errors import ValidationError
from tgi.server.responses import SimpleToken

Result = TypeVar("Result")

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet, in which each byte is a printable character. Source: openai/gpt-2, `bytes_to_unicode`."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class Tokenizer:
    """A model's tokenizer, and a pool of threads to run it in."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, workers: int = 1, eos_ids: Collection[int] = ()) -> None:
        self.eos_ids = tuple(sorted(set(eos_ids)))
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")
        self.special_tokens = {
            token.content: id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self._special = set(self.special_tokens.values())
        decoder = tokenizer.decoder
        kinds = json.dumps(json.loads(decoder.__getstate__())) if decoder is not None else ""
        self._byte_level = '"ByteLevel"' in kinds
        self._byte_fallback = '"ByteFallback"' in kinds
        self._bytes = _byte_of_character()
        self._pieces: dict[int, bytes] = {}
        self._plain_ids: set[int] = set()  # of those asked for
        self._anchor = None if self._byte_level else self._find_anchor()

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function of text in one of the tokenizer's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text. Raises: ValidationError when the tokenizer cannot encode it."""
        return await self.run(self._encode, text, add_special_tokens)

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[SimpleToken]:
        """The tokens of a text and where they are in it. Raises: ValidationError, as `encode`."""
        return await self.run(self._tokenize, text, add_special_tokens)

    async def decode(self, ids: list[int]) -> str:
        """The text of token ids, special ones included; ids without a token are left out."""
        return await self.run(self._plain, ids)

    def piece(self, token_id: int) -> bytes:
        """The bytes a token adds to a text; parts of a character for some tokens, nothing for unknown ids."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._decode(token_id)
        return piece

    def text(self, token_id: int) -> str:
        """A token on its own as text; incomplete characters show as U+FFFD."""
        return self.piece(token_id).decode("utf-8", "replace")

    def is_byte(self, token_id: int) -> bool:
        """Whether a token is one byte of a character that has no token: neighbours of its kind are read together."""
        if not self._byte_fallback or token_id in self._special:
            return False
        token = self._tokenizer.id_to_token(token_id)
        return token is not None and _BYTE_TOKEN.fullmatch(token) is not None

    def is_plain(self, token_id: int) -> bool:
        """Whether a token is neither special nor a byte."""
        if token_id in self._plain_ids:
            return True
        if self.is_special(token_id) or self.is_byte(token_id):
            return False
        self._plain_ids.add(token_id)
        return True

    def is_special(self, token_id: int) -> bool:
        """Whether a token is left out of generated text."""
        return token_id in self._special

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except Exception as error:  # the tokenizers package raises bare Exception
            raise ValidationError(f"tokenizer error {type(error).__name__}") from error
        ids: list[int] = encodings[0].ids
        return ids

    def _tokenize(self, text: str, add_special_tokens: bool) -> list[SimpleToken]:
        try:
            encoding = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        except Exception as error:  # the tokenizers package raises bare Exception
            raise ValidationError(f"tokenizer error {type(error).__name__}") from error
        data = text.encode()
        # byte_at[i] is where character i begins
        byte_at = range(len(data) + 1) if text.isascii() else _byte_offsets(text)
        tokens = []
        for token_id, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
            start, stop = byte_at[first], byte_at[last]
            tokens.append(SimpleToken(token_id, data[start:stop].decode("utf-8", "replace"), start, stop))
        return tokens

    def _decode(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:  # a model's vocabulary may be padded beyond its tokenizer's
            return b""
        if self._byte_level:
            if all(character in self._bytes for character in token):
                return bytes(self._bytes[character] for character in token)
            return token.encode()
        if token_id in self._special:
            return token.encode()
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if self._anchor is None:
            return self._plain([token_id]).encode()
        # Decoders drop a space at the very beginning, and a generated token is never there: decode it behind another.
        return self._plain([self._anchor, token_id])[len(self._plain([self._anchor])) :].encode()

    def _plain(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def _find_anchor(self) -> int | None:
        """Some ordinary token whose text stays the same when another follows."""
        for token_id in range(self._tokenizer.get_vocab_size()):
            token = self._tokenizer.id_to_token(token_id)
            if token is None or token_id in self._special or _BYTE_TOKEN.fullmatch(token) or not token.isprintable():
                continue
            once, twice = self._plain([token_id]), self._plain([token_id, token_id])
            if once.strip() and twice.startswith(once) and len(twice) > len(once):
                return token_id
        return None


def _byte_offsets(text: str) -> list[int]:
    return list(itertools.accumulate((len(character.encode()) for character in text), initial=0))
