"""Builds the tokenizer that a GGUF file describes in its metadata.

A GGUF file has no tokenizer.json: it stores vocabulary, merges (or scores), the kinds of tokens, and in
`tokenizer.ggml.pre` the name of the rule that splits text into words before merging. Splitting by another rule gives
other tokens than the model was trained on, so a name that is not known here is refused.

Source: llama.cpp's `llama-vocab.cpp` for the names and rules; the models' own tokenizer.json for normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE

from tgi.checkpoint.gguf import GgufFile
from tgi.checkpoint.mapping import corrupt
from tgi.errors import ModelError

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS_AND_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _WORDS_AND_SPACES
_QWEN2 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _WORDS_AND_SPACES
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")


@dataclass(frozen=True, slots=True)
class _Splitting:
    """What a name in `tokenizer.ggml.pre` stands for."""

    pre_tokenizer: Callable[[], pre_tokenizers.PreTokenizer]
    ignore_merges: bool = False  # a word that is a token stays whole, whatever the merges say
    add_bos: bool = False  # when the file does not say
    nfc: bool = False


def _by_patterns(*patterns: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    def build() -> pre_tokenizers.PreTokenizer:
        splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    return build


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


_SPLITTINGS = (
    (("smollm", "starcoder", "refact", "codeshell"), _Splitting(_single_digits)),
    (("gpt-2", "phi-2", "olmo", "mpt"), _Splitting(_gpt2)),
    (("llama-bpe", "llama3", "llama-v3"), _Splitting(_by_patterns(_LLAMA3), ignore_merges=True, add_bos=True)),
    (("smaug-bpe",), _Splitting(_by_patterns(_LLAMA3))),
    (("qwen2", "deepseek-r1-qwen"), _Splitting(_by_patterns(_QWEN2), nfc=True)),
    (("tekken",), _Splitting(_by_patterns(_TEKKEN), ignore_merges=True, add_bos=True)),
    (("default",), _Splitting(_by_patterns(*_DEFAULT))),
)
_BY_NAME = {name: splitting for names, splitting in _SPLITTINGS for name in names}


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer, what its tokenizer_config.json would say, and the tokens that end an answer.

    `config` holds special tokens as text, `chat_template` (text, or a list of `{"name", "template"}` where the file
    names several) and `model_max_length`, each only where the file has it.
    """

    tokenizer: Tokenizer
    config: dict[str, Any]
    end_ids: frozenset[int]


def build_tokenizer(file: GgufFile) -> GgufTokenizer:
    """The file's tokenizer, special tokens and the adding of bos and eos included.

    Raises: ModelError with exit code 16 (metadata missing or contradicting itself) or 18 (an unknown kind).
    """
    kind = file.get("tokenizer.ggml.model", str)
    tokens = file.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise corrupt(file.path, "it holds no vocabulary (`tokenizer.ggml.tokens`)")
    if kind == "gpt2":
        tokenizer, add_bos = _byte_level(file, tokens)
    elif kind == "llama":
        tokenizer, add_bos = _sentence_piece(file, tokens), True
    else:
        raise _unsupported(file, f"a tokenizer of kind `{kind}`", "gpt2, llama")
    tokenizer.add_tokens(_added_tokens(file, tokens))
    _add_ends(file, tokenizer, tokens, add_bos)
    ends = (_token_id(file, role, len(tokens)) for role in ("eos", "eot", "eom"))
    return GgufTokenizer(tokenizer, _config(file, tokens), frozenset(end for end in ends if end is not None))


def _config(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = _token_id(file, key, len(tokens))
        if token_id is not None:
            config[f"{role}_token"] = tokens[token_id]
    template = _chat_template(file)
    if template is not None:
        config["chat_template"] = template
    length = file.metadata.get(f"{file.get('general.architecture', str)}.context_length")
    if isinstance(length, int) and length > 0:
        config["model_max_length"] = length
    return config


def _byte_level(file: GgufFile, tokens: list[str]) -> tuple[Tokenizer, bool]:
    """Byte-level BPE, and whether bos is added when the file does not say."""
    name = file.get("tokenizer.ggml.pre", str, "default")
    if name not in _BY_NAME:
        raise _unsupported(file, f"the pre-tokenizer `{name}`", ", ".join(_BY_NAME))
    splitting = _BY_NAME[name]
    merges = _merges(file)
    tokenizer = _tokenizer(file, lambda: BPE(_vocabulary(tokens), merges, ignore_merges=splitting.ignore_merges))
    if splitting.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, splitting.add_bos


def _sentence_piece(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """SentencePiece's BPE: spaces are written as U+2581, unknown characters fall back to bytes."""
    unknown = _token_id(file, "unknown", len(tokens))
    vocabulary = _vocabulary(tokens)
    merges = _merges(file) or _merges_from_scores(file, tokens, vocabulary)
    tokenizer = _tokenizer(file, lambda: BPE(
        vocabulary, merges, unk_token=tokens[unknown] if unknown is not None else None, fuse_unk=True,
        byte_fallback=True,
    ))  # fmt: skip
    spaces = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.get("tokenizer.ggml.add_space_prefix", bool, True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _tokenizer(file: GgufFile, build: Callable[[], BPE]) -> Tokenizer:
    try:
        return Tokenizer(build())
    except Exception as error:  # the library raises nothing narrower
        raise corrupt(file.path, f"its vocabulary and merges contradict each other ({error})") from error


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _merges(file: GgufFile) -> list[tuple[str, str]]:
    pairs = []
    for merge in file.strings("tokenizer.ggml.merges"):
        space = merge.find(" ", 1)  # a piece may itself start with a space
        if not 0 < space < len(merge) - 1:
            raise corrupt(file.path, f"{merge!r} is no merge of two tokens")
        pairs.append((merge[:space], merge[space + 1 :]))
    return pairs


def _merges_from_scores(file: GgufFile, tokens: list[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The merges that scores imply: every way to cut a token into two tokens, best score first.

    Source: transformers' conversion of SentencePiece models.
    """
    scores = file.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise corrupt(file.path, f"it holds {len(tokens)} tokens, but {len(scores)} scores and no merges")
    found: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in cuts if left in vocabulary and right in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found.extend((score, len(left), len(right), left, right) for left, right in known)
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _added_tokens(file: GgufFile, tokens: list[str]) -> list[AddedToken]:
    """Tokens that are found whole in the text, before anything else."""
    kinds = file.numbers("tokenizer.ggml.token_type")
    if len(kinds) not in (0, len(tokens)):
        raise corrupt(file.path, f"it holds {len(tokens)} tokens, but {len(kinds)} token types")
    return [
        AddedToken(tokens[index], special=kind != _USER_DEFINED, normalized=False)
        for index, kind in enumerate(kinds)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) and tokens[index]
    ]


def _add_ends(file: GgufFile, tokenizer: Tokenizer, tokens: list[str], add_bos: bool) -> None:
    """Put bos before and eos after each text, where the file says so."""
    ends = {}
    for role, default in (("bos", add_bos), ("eos", False)):
        token_id = _token_id(file, role, len(tokens))
        if file.get(f"tokenizer.ggml.add_{role}_token", bool, default) and token_id is not None:
            ends[role] = (tokens[token_id], token_id)
    if not ends:
        return
    # A token is quoted by name: a text such as `A:1` would be read as a piece of the template's own language.
    before = ["bos"] if "bos" in ends else []
    after = ["eos"] if "eos" in ends else []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{name}:1" for name in before), "$B:1", *(f"{name}:1" for name in after)],
        special_tokens=[{"id": name, "ids": [token_id], "tokens": [token]} for name, (token, token_id) in ends.items()],
    )


def _chat_template(file: GgufFile) -> str | list[dict[str, str]] | None:
    names = file.strings("tokenizer.chat_templates")
    single = file.get("tokenizer.chat_template", str, "")
    if not names:
        return single or None
    named = [{"name": name, "template": file.get(f"tokenizer.chat_template.{name}", str)} for name in names]
    return ([{"name": "default", "template": single}] if single else []) + named


def _token_id(file: GgufFile, role: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in file.metadata:
        return None
    token_id = file.get(key, int)
    if not 0 <= token_id < count:
        raise corrupt(file.path, f"metadata `{key}` is {token_id}, the vocabulary holds {count} tokens")
    return token_id


def _unsupported(file: GgufFile, what: str, supported: str) -> ModelError:
    return ModelError(f"`{file.path}` needs {what}, which is not supported",
                      hint=f"supported: {supported}; or serve the model's safetensors", exit_code=18)  # fmt: skip
