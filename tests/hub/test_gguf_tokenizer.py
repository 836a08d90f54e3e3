"""Tokenizers from GGUF metadata, against the tokenizers they were made from."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers
from real_model import default_gguf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.tokenization_utils_base import generate_merges

from tgi.checkpoint.gguf import GgufFile
from tgi.errors import ModelError
from tgi.hub.gguf_tokenizer import build_tokenizer

TEXTS = (
    "Hello, world!",
    "",
    " leading, trailing ",
    "   three   spaces\t\ttabs\n\nlines\r\n\r\n  end  \n",
    "digits 1 12 123 1234567 3.14 ½ ² ٣ १२३",
    "don't I'll THEY'RE we've O'Neil 's",
    "naïve café Ünïcödé ﬁ e\u0301 Å Å",
    "你好，世界。 こんにちは 한국어 русский العربية हिन्दी ไทย",
    "🙂👩‍👩‍👧‍👦🇫🇷 ✨\u200b\ufeff",
    "def f(x: int) -> str:\n    return f\"{x!r}\" + '\\n'  # a_b == c->d && (e||f)\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "https://example.org/a?b=c&d=%20e#f user@mail.example $1,000.00 +=<>^~|",
    "\x00\x01\x7f\x80 mixedCASEWords HTTPServer2Go __init__",
)

# A byte-level tokenizer of each family as its own tokenizer.json states it.
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"


def by_regex(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


def published(pre: str) -> Tokenizer:
    """A tokenizer trained here on `TEXTS`, with the normaliser and pre-tokenizer of the family's tokenizer.json."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = {
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, use_regex=True)]
        ),
        "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "llama-bpe": by_regex(_CONTRACTIONS + _SPLIT % r"\p{N}{1,3}"),
        "qwen2": by_regex(_CONTRACTIONS + _SPLIT % r"\p{N}"),
    }[pre]
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def write_metadata(path: Path, **values: Any) -> GgufFile:
    """A GGUF file of nothing but tokenizer metadata; `__` in a name stands for a dot."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.context_length", 64)
    kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
    for name, value in values.items():
        full = f"tokenizer.{name.replace('__', '.')}" if name.startswith("chat") else f"tokenizer.ggml.{name}"
        kinds[type(value)](full, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile(path)


def as_metadata(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    """What llama.cpp's conversion writes of a byte-level tokenizer."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    special = {"<|im_start|>", "<|im_end|>"}
    return {
        "model": "gpt2", "pre": pre, "tokens": [token for token, _ in vocabulary],
        "token_type": [3 if token in special else 1 for token, _ in vocabulary],
        "merges": [" ".join(pair) for pair in merges],
    }  # fmt: skip


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
def test_byte_level_tokens_are_those_of_the_tokenizer_that_was_converted(pre: str, tmp_path: Path) -> None:
    reference = published(pre)
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **as_metadata(reference, pre))).tokenizer
    for text in TEXTS:
        ids = built.encode(text, add_special_tokens=False).ids
        assert ids == reference.encode(text, add_special_tokens=False).ids
        assert built.decode(ids, skip_special_tokens=False) == reference.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        # As llama.cpp splits; transformers would split these by gpt-2's rule.
        ("default", "a=1234 b", ["a", "=", "123", "4", "Ġb"]),
        ("tekken", "HTTPServer2Go", ["HTTPServer", "2", "Go"]),
        ("smollm", "a1234 b", ["a", "1", "2", "3", "4", "Ġb"]),
    ],
)
def test_words_are_split_by_the_rule_that_is_named(pre: str, text: str, words: list[str], tmp_path: Path) -> None:
    metadata = as_metadata(published("gpt-2"), pre)
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **metadata)).tokenizer
    assert built.pre_tokenizer is not None
    assert [word for word, _ in built.pre_tokenizer.pre_tokenize_str(text)] == words


@pytest.fixture(scope="module")
def real() -> Any:
    return build_tokenizer(GgufFile(default_gguf()))


def test_the_default_models_tokens_are_those_of_its_published_tokenizer(real: Any) -> None:
    """transformers reads vocabulary and merges; it ignores `pre: smollm`, so its splitting is replaced here."""
    theirs = transformers.AutoTokenizer.from_pretrained(default_gguf().parent, gguf_file=default_gguf().name)
    reference = theirs.backend_tokenizer
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in TEXTS:
        ids = real.tokenizer.encode(text).ids
        assert ids == reference.encode(text, add_special_tokens=False).ids
        assert real.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_default_models_special_tokens_and_template_are_read(real: Any) -> None:
    assert real.end_ids == {2}
    template = real.config.pop("chat_template")
    assert template.startswith("{% for message in messages %}")
    assert real.config == {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>", "model_max_length": 8192,
    }  # fmt: skip
    assert real.tokenizer.encode("<|im_start|>a<|im_end|>").ids[::2] == [1, 2]
    assert real.tokenizer.decode([1, 2]) == ""  # special, so skipped
    assert real.tokenizer.get_vocab_size() == 49152


SENTENCE_PIECES = (
    ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
    [*"▁abcdehilorw,!", "▁h", "el", "lo", "▁hel", "▁hello", "ll", "ello", "wor", "or", "▁▁", "ld", "▁wor", "world"],
)  # fmt: skip


def sentence_piece_metadata() -> dict[str, Any]:
    control, pieces = SENTENCE_PIECES
    return {
        "model": "llama", "tokens": [*control, *pieces, "[INST]"],
        "scores": [0.0] * len(control) + [-float(rank) for rank in range(len(pieces))] + [-1000.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4],
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
    }  # fmt: skip


def sentence_piece(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's own algorithm: join the neighbours that make the best-scored piece, leftmost first, until none.

    Source: Kudo and Richardson (2018), byte-pair encoding with scores.
    """
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [(scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in scores]
        if not joined:
            break
        at = -max(joined)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return [part for piece in pieces for part in (
        [piece] if piece in scores else [f"<0x{byte:02X}>" for byte in piece.encode()])]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["hello world", "  hello", "hellohello, world!", "a hé🙂 b", "lolled", "world\n hello "]
)
def test_sentence_pieces_are_joined_by_score_and_fall_back_to_bytes(text: str, tmp_path: Path) -> None:
    metadata = sentence_piece_metadata()
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **metadata)).tokenizer
    scores = dict(zip(metadata["tokens"][3:-1], metadata["scores"][3:-1], strict=True))
    encoding = built.encode(text)
    assert encoding.tokens == ["<s>", *sentence_piece(text, scores)]
    assert encoding.ids[0] == 1
    assert built.decode(encoding.ids) == text


def test_merges_recovered_from_scores_are_those_of_transformers(tmp_path: Path) -> None:
    metadata = sentence_piece_metadata()
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **metadata)).tokenizer
    vocabulary = {token: index for index, token in enumerate(metadata["tokens"])}
    expected = generate_merges(vocabulary, dict(zip(metadata["tokens"], metadata["scores"], strict=True)))
    stored = json.loads(built.to_str())["model"]["merges"]
    assert [tuple(pair) for pair in stored] == expected


def test_user_defined_tokens_are_found_whole_and_shown(tmp_path: Path) -> None:
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **sentence_piece_metadata())).tokenizer
    ids = built.encode("hello[INST]hello").ids
    assert built.token_to_id("[INST]") in ids
    assert "[INST]" in built.decode(ids)


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (True, False), (False, True), (False, False)])
def test_bos_and_eos_are_added_as_the_file_says(bos: bool, eos: bool, tmp_path: Path) -> None:
    metadata = sentence_piece_metadata() | {"add_bos_token": bos, "add_eos_token": eos, "add_space_prefix": False}
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **metadata)).tokenizer
    assert built.encode("ll").tokens == ["<s>"] * bos + ["ll"] + ["</s>"] * eos
    assert built.encode("ll", add_special_tokens=False).tokens == ["ll"]


def test_bos_is_added_by_default_where_llama_cpp_adds_it(tmp_path: Path) -> None:
    for pre, expected in (("llama-bpe", [1, 0]), ("smollm", [0])):
        metadata = as_metadata(published("gpt-2"), pre) | {"bos_token_id": 1}
        built = build_tokenizer(write_metadata(tmp_path / f"{pre}.gguf", **metadata)).tokenizer
        assert built.encode("<|im_start|>").ids == expected


def test_named_templates_and_all_end_tokens_are_read(tmp_path: Path) -> None:
    metadata = sentence_piece_metadata() | {
        "eot_token_id": 5, "chat_template": "D", "chat_templates": ["rag", "tool_use"], "chat_template__rag": "R",
        "chat_template__tool_use": "T",
    }  # fmt: skip
    built = build_tokenizer(write_metadata(tmp_path / "a.gguf", **metadata))
    assert built.end_ids == {2, 5}
    assert built.config["chat_template"] == [
        {"name": "default", "template": "D"}, {"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"},
    ]  # fmt: skip
    assert built.config["model_max_length"] == 64


@pytest.mark.parametrize(
    ("change", "fault", "code"),
    [
        ({"pre": "new-rule"}, "the pre-tokenizer `new-rule`", 18),
        ({"model": "bert"}, "a tokenizer of kind `bert`", 18),
        ({"tokens": ["a", "b"]}, "contradict each other", 16),
        ({"token_type": [1]}, "but 1 token types", 16),
        ({"merges": ["ab"]}, "'ab' is no merge", 16),
        ({"bos_token_id": 1 << 20}, "`tokenizer.ggml.bos_token_id` is 1048576", 16),
        ({"model": "llama", "merges": []}, "but 0 scores and no merges", 16),
    ],
)
def test_a_tokenizer_that_cannot_be_built_is_refused(
    change: dict[str, Any], fault: str, code: int, tmp_path: Path
) -> None:
    metadata = as_metadata(published("gpt-2"), "gpt-2") | change
    if not metadata["merges"]:
        del metadata["merges"]
    with pytest.raises(ModelError, match=fault) as refusal:
        build_tokenizer(write_metadata(tmp_path / "a.gguf", **metadata))
    assert refusal.value.exit_code == code
