"""Token ids and byte offsets are the tokenizer's own; pieces are bytes."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from tests.server.serving import BOS, EOS, byte_level, sentence_piece
from tgi.errors import ValidationError
from tgi.server.tokenizer import Tokenizer


async def test_ids_are_those_of_the_tokenizer() -> None:
    for raw in (byte_level(add_bos=True), sentence_piece()):
        for text in ("hello", "héllo 你😀", " ", "</s>x"):
            for special in (True, False):
                ids = await Tokenizer(raw).encode(text, add_special_tokens=special)
                assert ids == raw.encode(text, add_special_tokens=special).ids


async def test_offsets_count_bytes() -> None:
    raw = RawTokenizer(models.WordLevel({"é": 0, "你好": 1, "x": 2}, unk_token="x"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = await Tokenizer(raw).tokenize("é 你好 x", add_special_tokens=True)
    assert [(token.text, token.start, token.stop) for token in tokens] == [("é", 0, 2), ("你好", 3, 9), ("x", 10, 11)]


async def test_added_special_tokens_have_no_place_in_the_text() -> None:
    tokens = await Tokenizer(byte_level(add_bos=True)).tokenize("a", add_special_tokens=True)
    assert [(token.id, token.text, token.start, token.stop) for token in tokens] == [(BOS, "", 0, 0), (97, "a", 0, 1)]


def test_pieces_are_bytes() -> None:
    tokenizer = Tokenizer(byte_level())
    assert [tokenizer.piece(byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.piece(EOS) == b"</s>"
    assert tokenizer.text(0xE4) == "\ufffd"


def test_sentence_pieces_keep_their_space() -> None:
    tokenizer = Tokenizer(sentence_piece())
    the = sentence_piece().token_to_id("▁the")
    assert (tokenizer.text(the), tokenizer.piece(3 + 0xE4)) == (" the", b"\xe4")


def test_a_word_piece_decoder_is_followed_too() -> None:
    raw = RawTokenizer(models.WordLevel({"play": 0, "##ing": 1, "now": 2}, unk_token="play"))
    raw.decoder = decoders.WordPiece()
    assert [Tokenizer(raw).text(id) for id in (0, 1, 2)] == [" play", "ing", " now"]


async def test_a_tokenizer_that_fails_is_the_requests_fault() -> None:
    raw = RawTokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))  # no id for its unknown token
    with pytest.raises(ValidationError, match="tokenizer error"):
        await Tokenizer(raw).encode("b", add_special_tokens=False)
    with pytest.raises(ValidationError, match="tokenizer error"):
        await Tokenizer(raw).tokenize("b", add_special_tokens=False)


def test_plain_tokens_are_neither_special_nor_bytes() -> None:
    tokenizer = Tokenizer(sentence_piece())
    the = sentence_piece().token_to_id("▁the")
    asked = [the, 3 + 0xE4, *tokenizer.special_tokens.values()]
    for _ in range(2):  # what was asked before is remembered
        assert [tokenizer.is_plain(token_id) for token_id in asked] == [True] + [False] * (len(asked) - 1)
