"""Streamed text equals text decoded at once, and stop sequences are found wherever tokens end."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from tests.server.serving import EOS, MARK, byte_level, sentence_piece
from tgi.server.detokenizer import Decoded, Detokenizer, StopRule
from tgi.server.tokenizer import Tokenizer

BYTE_LEVEL, SENTENCE_PIECE = Tokenizer(byte_level()), Tokenizer(sentence_piece())


def push_all(detokenizer: Detokenizer, ids: list[int]) -> list[Decoded]:
    """Every token in turn, up to the one that completes a stop sequence."""
    decoded = []
    for position, token_id in enumerate(ids):
        decoded.append(detokenizer.push(token_id, last=position == len(ids) - 1))
        if decoded[-1].stopped:
            break
    return decoded


def answer(decoded: list[Decoded]) -> str:
    return "".join(step.delta for step in decoded)


@given(st.lists(st.integers(0, 260), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_streamed_text_is_the_text_of_all_ids_for_byte_level_tokenizers(ids: list[int]) -> None:
    streamed = answer(push_all(Detokenizer(BYTE_LEVEL), ids))
    assert streamed == byte_level().decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(0, 290), min_size=1, max_size=60))
@settings(max_examples=500, deadline=None)
def test_streamed_text_is_the_text_of_all_ids_for_byte_fallback_tokenizers(ids: list[int]) -> None:
    assert_streams_like_fallback(ids)


WORDS = st.integers(259, 289)  # of `sentence_piece()`; its ids 3 to 258 are the bytes
# Bytes between words: characters without a token of their own, whole, cut, or followed by no UTF-8.
RUNS = st.one_of(
    st.text(min_size=1, max_size=4).map(lambda text: list(text.encode("utf-8", "replace"))),
    st.tuples(st.text(max_size=2), st.lists(st.integers(0, 255), max_size=5)).map(
        lambda run: [*run[0].encode("utf-8", "replace"), *run[1]]
    ),
    st.sampled_from("é你😀\n").map(lambda character: list(character.encode()[:-1])),
)
SPECIAL = st.integers(0, 2)


@given(st.lists(st.tuples(st.one_of(WORDS, SPECIAL), st.one_of(st.just([]), RUNS)), min_size=1, max_size=20))
@settings(max_examples=500, deadline=None)
def test_characters_that_consist_of_byte_tokens_are_those_of_all_ids(parts: list[tuple[int, list[int]]]) -> None:
    assert_streams_like_fallback([token_id for word, run in parts for token_id in [word, *(3 + byte for byte in run)]])


def assert_streams_like_fallback(ids: list[int]) -> None:
    first = 260  # "a": what stands before an answer, where no decoder strips a space
    reference = sentence_piece().decode([first, *ids]).removeprefix(sentence_piece().decode([first]))
    for stops, rule in (((), StopRule.AT_END), (("NEVER\ufffe",), StopRule.AT_END), (("NEVER\ufffe",), StopRule.STRIP)):
        assert answer(push_all(Detokenizer(SENTENCE_PIECE, stops, rule), ids)) == reference


@given(
    st.lists(st.sampled_from([260, 261, *(3 + byte for byte in "\nabé".encode())]), min_size=1, max_size=12),
    st.text("\nabé", min_size=1, max_size=2), st.sampled_from([StopRule.STRIP, StopRule.INCLUDE]),
)  # fmt: skip
@settings(max_examples=500, deadline=None)
def test_stop_sequences_are_found_in_bytes_as_soon_as_they_are_there(ids: list[int], stop: str, rule: StopRule) -> None:
    raw, first = sentence_piece(), 260
    texts = [raw.decode([first, *ids[:count]]).removeprefix(raw.decode([first])) for count in range(1, len(ids) + 1)]
    assume("\ufffd" not in texts[-1])
    found = next((text for text in texts if stop in text), None)
    expected = texts[-1]
    if found is not None:
        expected = found[: found.index(stop) + (len(stop) if rule is StopRule.INCLUDE else 0)]
    steps = push_all(Detokenizer(SENTENCE_PIECE, [stop], rule), ids)
    assert (answer(steps), steps[-1].stopped) == (expected, found is not None)
    assert len(steps) == (len(ids) if found is None else texts.index(found) + 1)


def test_a_byte_waits_for_its_neighbours_in_the_answer_and_not_in_its_own_text() -> None:
    steps = push_all(Detokenizer(SENTENCE_PIECE), [3 + ord("\n"), 3 + 0xFF, 3 + ord("b"), 260])
    assert [step.text for step in steps] == ["\n", "\ufffd", "\ufffd", "a"]
    assert [step.delta for step in steps] == ["", "", "", "\ufffd\ufffd\ufffda"]
    assert answer(push_all(Detokenizer(SENTENCE_PIECE), [3 + ord("\n"), 2])) == "\n"


@pytest.mark.parametrize("rule", StopRule)
def test_a_byte_completes_a_stop_sequence_at_once(rule: StopRule) -> None:
    steps = push_all(Detokenizer(SENTENCE_PIECE, ["\n\n"], rule), [260, *(3 + ord("\n") for _ in range(3))])
    assert (len(steps), steps[-1].stopped) == (3, True)
    assert answer(steps) == ("a" if rule is StopRule.STRIP else "a\n\n")


def word_piece() -> tokenizers.Tokenizer:
    """As BERT has it: `##` continues a word, and spaces before punctuation are taken away."""
    words = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abc",
        "do",
        "not",
        "##s",
        "##ing",
        ".",
        "?",
        "!",
        ",",
        "'",
        "n't",
        "'s",
        "é",
        "##é",
    ]
    model = models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens(words[:3])
    return tokenizer


def metaspace() -> tokenizers.Tokenizer:
    """As T5 has it: `▁` begins a word, and the first one loses it."""
    words = ["<unk>", "</s>", "▁", *"abc", "▁a", "▁the", "ing", "é", "你", "▁▁"]
    tokenizer = tokenizers.Tokenizer(models.Unigram([(word, -1.0) for word in words], 0, False))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(words[:2])
    return tokenizer


@pytest.mark.parametrize("make", [word_piece, metaspace])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_streamed_text_is_the_text_of_all_ids_for_tokenizers_that_join_words(
    make: Callable[[], tokenizers.Tokenizer], data: st.DataObject
) -> None:
    raw = make()
    ids = data.draw(st.lists(st.integers(0, raw.get_vocab_size() + 2), min_size=1, max_size=40))
    first = 3  # an ordinary token: what stands before an answer
    expected = raw.decode([first, *ids], skip_special_tokens=True).removeprefix(raw.decode([first]))
    assert answer(push_all(Detokenizer(Tokenizer(raw)), ids)) == expected


@given(st.lists(st.integers(0, 320), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_token_texts_that_are_not_special_make_up_the_answer(ids: list[int]) -> None:
    words = [id for id in ids if id not in range(3, 259)]  # bytes that are no UTF-8 take their neighbours back
    for tokenizer, shown in ((BYTE_LEVEL, ids), (SENTENCE_PIECE, words)):
        steps = push_all(Detokenizer(tokenizer), [*shown, ord("a")])
        visible = [
            step.text for step, id in zip(steps, [*shown, ord("a")], strict=True) if not tokenizer.is_special(id)
        ]
        assert "".join(visible) == answer(steps)


def test_a_character_appears_with_the_token_that_completes_it() -> None:
    steps = push_all(Detokenizer(BYTE_LEVEL), [*"é😀".encode(), ord("x")])
    assert [step.text for step in steps] == ["", "é", "", "", "", "😀", "x"]


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    assert [step.text for step in push_all(Detokenizer(BYTE_LEVEL), list("a你".encode()[:-1]))] == ["a", "", "\ufffd"]
    steps = push_all(Detokenizer(BYTE_LEVEL), [*"你".encode()[:-1], EOS])
    assert (answer(steps), steps[-1].text) == ("\ufffd", "</s>")


def test_special_tokens_have_text_but_add_none() -> None:
    steps = push_all(Detokenizer(BYTE_LEVEL), [ord("a"), MARK, ord("b"), EOS])
    assert ([step.text for step in steps], answer(steps)) == (["a", "<|mark|>", "b", "</s>"], "ab")


def test_an_unknown_id_adds_nothing() -> None:
    assert answer(push_all(Detokenizer(BYTE_LEVEL), [ord("a"), 5000, ord("b")])) == "ab"


@pytest.mark.parametrize(
    ("rule", "expected"), [(StopRule.AT_END, "one stop"), (StopRule.STRIP, "one "), (StopRule.INCLUDE, "one stop")]
)
def test_a_stop_sequence_spans_tokens(rule: StopRule, expected: str) -> None:
    steps = push_all(Detokenizer(BYTE_LEVEL, ["stop"], rule), list(b"one stop, two"))
    assert (answer(steps), steps[-1].stopped, len(steps)) == (expected, True, len("one stop"))


def test_text_that_may_become_a_stop_sequence_is_held_back() -> None:
    steps = push_all(Detokenizer(BYTE_LEVEL, ["END."], StopRule.STRIP), list(b"aENDbEND.c"))
    assert [step.delta for step in steps] == ["a", "", "", "", "ENDb", "", "", "", ""]


def test_held_text_is_released_when_the_sequence_ends_without_its_stop() -> None:
    assert answer(push_all(Detokenizer(BYTE_LEVEL, ["END."], StopRule.STRIP), [*b"aEN", EOS])) == "aEN"


def test_a_stop_sequence_is_found_across_and_in_special_tokens() -> None:
    for stop, expected in (("<|mark|>", "a"), ("|>b", "a"), ("a<|", "")):
        steps = push_all(Detokenizer(BYTE_LEVEL, [stop], StopRule.STRIP), [ord("a"), MARK, ord("b"), ord("c")])
        assert (answer(steps), steps[-1].stopped) == (expected, True), stop


def test_on_tgi_routes_a_stop_sequence_inside_a_token_does_not_count() -> None:
    tokenizer = Tokenizer(sentence_piece())
    ing = sentence_piece().token_to_id("ing")
    assert not push_all(Detokenizer(tokenizer, ["in"], StopRule.AT_END), [ing])[0].stopped
    assert push_all(Detokenizer(tokenizer, ["ng"], StopRule.AT_END), [ing])[0].stopped
    assert answer(push_all(Detokenizer(tokenizer, ["in"], StopRule.INCLUDE), [ing])) == "in"
    assert answer(push_all(Detokenizer(tokenizer, ["n"], StopRule.STRIP), [ing])) == "i"


def test_a_stop_sequence_that_overlaps_itself_is_found_at_the_end_of_a_token() -> None:
    raw = byte_level()
    raw.add_tokens(["aaa", "b"])
    overlapping, other = raw.token_to_id("aaa"), raw.token_to_id("b")
    assert push_all(Detokenizer(Tokenizer(raw), ["aa"]), [overlapping])[0].stopped
    assert not push_all(Detokenizer(Tokenizer(raw), ["ab"]), [overlapping])[0].stopped
    assert push_all(Detokenizer(Tokenizer(raw), ["aab"]), [overlapping, other])[1].stopped


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_no_part_of_a_stop_sequence_is_ever_shown(seed: int) -> None:
    draw = random.Random(seed)
    stops = ["".join(draw.choices("ab", k=draw.randint(1, 5))) for _ in range(draw.randint(1, 4))]
    text = "".join(draw.choices("ab", k=30))
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min((end, start) for end, start in ends)[1]] if ends else text
    shown = ""
    for step in push_all(Detokenizer(BYTE_LEVEL, stops, StopRule.STRIP), list(text.encode())):
        shown += step.delta
        assert expected.startswith(shown)
    assert shown == expected


@pytest.mark.parametrize(
    ("rule", "expected"), [(StopRule.STRIP, "a"), (StopRule.INCLUDE, "ab"), (StopRule.AT_END, "ab")]
)
@pytest.mark.parametrize("stops", [(), ("never",)])
def test_the_token_that_ended_a_sequence_is_left_out_where_stop_sequences_are(
    rule: StopRule, expected: str, stops: tuple[str, ...]
) -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, stops, rule)
    first, second = byte_level().encode("ab", add_special_tokens=False).ids
    steps = [detokenizer.push(first), detokenizer.push(second, last=True, ended=True)]

    assert answer(steps) == expected
    assert steps[1].text == "b"
