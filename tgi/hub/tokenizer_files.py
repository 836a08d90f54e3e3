"""Loads a model's tokenizer, its special tokens and its chat template, from whichever files the model has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from tgi.checkpoint.gguf import GgufFile
from tgi.checkpoint.mapping import corrupt
from tgi.errors import ModelError
from tgi.hub.files import ModelFiles
from tgi.hub.gguf_tokenizer import build_tokenizer

_MAX_FILE_BYTES = 64 << 20  # spec/reliability.md V28
_LONGEST = 1 << 31  # transformers writes 1e30 for "no limit"
_MORE_TEMPLATES = "additional_chat_templates/*.jinja"  # named after their files, as transformers writes them
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer and what goes with it.

    `config` is tokenizer_config.json with the special tokens as plain text and without the template. `chat_template` is
    Jinja text, or a list of `{"name", "template"}`, or None. `eos_ids` end an answer. `model_max_length` counts tokens.
    """

    tokenizer: Tokenizer
    config: dict[str, Any]
    chat_template: str | list[dict[str, str]] | None
    eos_ids: frozenset[int]
    model_max_length: int | None


def load_tokenizer(files: ModelFiles, tokenizer_config_path: Path | None = None) -> TokenizerFiles:
    """The model's tokenizer; `tokenizer_config_path` replaces its tokenizer_config.json.

    The chat template comes from that file if given, else chat_template.jinja, chat_template.json, or
    tokenizer_config.json (a .gguf file: from its metadata).

    Raises: ModelError with exit code 12 (no tokenizer), 16 (damaged, or over 64 MiB) or 18 (a GGUF tokenizer of an
            unknown kind).
    """
    if files.path.is_file() and files.path.suffix == ".gguf":
        return _from_gguf(files.path, tokenizer_config_path)
    return _from_folder(files.folder, tokenizer_config_path)


def load_encoding(
    path: Path, tokenizer_config_path: Path | None = None
) -> tuple[Tokenizer, frozenset[int]]:  # fmt: skip
    """The tokenizer, and the ids that end an answer, of the model whose weights are at `path`.

    Raises: ModelError, as `load_tokenizer`.
    """
    folder = path if path.is_dir() else path.parent
    files = load_tokenizer(ModelFiles(path.name, None, path, folder), tokenizer_config_path)
    return files.tokenizer, files.eos_ids


def _from_gguf(path: Path, tokenizer_config_path: Path | None) -> TokenizerFiles:
    built = build_tokenizer(GgufFile(path))
    config = built.config
    if tokenizer_config_path is not None:
        config |= _read_object(tokenizer_config_path)
    return _finish(built.tokenizer, config, config.get("chat_template"), built.end_ids, path)


def _from_folder(folder: Path, tokenizer_config_path: Path | None) -> TokenizerFiles:
    tokenizer = _read_tokenizer(folder)
    special = _read_if_there(folder / "special_tokens_map.json")
    if tokenizer_config_path is not None:
        given = _read_object(tokenizer_config_path)
        config, source = special | given, tokenizer_config_path
        template = given.get("chat_template") or _template_file(folder)
    else:
        source = folder / "tokenizer_config.json"
        config = special | _read_if_there(source)
        template = _template_file(folder) or config.get("chat_template")
    return _finish(tokenizer, config, template, _configured_eos(folder), source)


def _finish(tokenizer: Tokenizer, config: dict[str, Any], template: Any, eos_ids: frozenset[int],
            source: Path) -> TokenizerFiles:  # fmt: skip
    # A tokenizer.json may carry the settings of its training, which would cut or fill every prompt.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = {name: value for name, value in config.items() if name not in (*_SPECIAL_TOKENS, "chat_template")}
    for name in _SPECIAL_TOKENS:
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            plain[name] = text
    eos_id = tokenizer.token_to_id(plain["eos_token"]) if "eos_token" in plain else None
    length = config.get("model_max_length")
    known_length = isinstance(length, int | float) and 0 < length < _LONGEST
    return TokenizerFiles(
        tokenizer=tokenizer,
        config=plain,
        chat_template=_checked_template(template, source),
        eos_ids=eos_ids | ({eos_id} if eos_id is not None else frozenset()),
        model_max_length=int(length) if known_length and length is not None else None,
    )


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelError(
            f"`{folder}` has no tokenizer.json",
            hint="convert the model's tokenizer once, with transformers: "
            "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
            exit_code=12,
        )
    text = _read_text(path)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise corrupt(path, f"not a tokenizer ({error})") from error


def _template_file(folder: Path) -> Any:
    more = [{"name": path.stem, "template": _read_text(path)} for path in sorted(folder.glob(_MORE_TEMPLATES))]
    if (folder / "chat_template.jinja").exists():
        single = _read_text(folder / "chat_template.jinja")
        return [{"name": "default", "template": single}, *more] if more else single
    if more:
        return more
    return _read_if_there(folder / "chat_template.json").get("chat_template")


def _checked_template(template: Any, source: Path) -> str | list[dict[str, str]] | None:
    if template is None or isinstance(template, str):
        return template or None
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    try:
        return msgspec.convert(template, list[dict[str, str]])
    except msgspec.ValidationError as error:
        raise corrupt(source, f"`chat_template` is neither text nor a list of named templates ({error})") from error


def _configured_eos(folder: Path) -> frozenset[int]:
    """`eos_token_id` of generation_config.json, else of config.json: one id, a list of them, or nothing."""
    for name in ("generation_config.json", "config.json"):
        value = _read_if_there(folder / name).get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(token_id, bool) or not isinstance(token_id, int) for token_id in ids):
            raise corrupt(folder / name, f"`eos_token_id` is {value!r}")
        if ids:
            return frozenset(ids)
    return frozenset()


def _read_if_there(path: Path) -> dict[str, Any]:
    return _read_object(path) if path.exists() else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(_read_text(path), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise corrupt(path, f"not a JSON object ({error})") from error


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise corrupt(path, f"{size} bytes are over the limit of {_MAX_FILE_BYTES}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelError(f"`{path}` does not exist", hint="check the path", exit_code=12) from error
    except UnicodeDecodeError as error:
        raise corrupt(path, f"not UTF-8 ({error})") from error
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror}",
                         hint="check the file and its permissions", exit_code=16) from error  # fmt: skip
