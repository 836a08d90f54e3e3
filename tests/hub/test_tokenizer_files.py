"""A tokenizer and what goes with it, from a folder and from a .gguf file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tgi.errors import ModelError
from tgi.hub import tokenizer_files
from tgi.hub.files import ModelFiles
from tgi.hub.tokenizer_files import TokenizerFiles, load_encoding, load_tokenizer

from .test_gguf_tokenizer import sentence_piece_metadata, write_metadata


def write_folder(folder: Path, **files: Any) -> Path:
    """A model's folder; `name=object` writes name.json."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2, "<eot>": 3}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def load(folder: Path, config_path: Path | None = None) -> TokenizerFiles:
    return load_tokenizer(ModelFiles("m", None, folder, folder), config_path)


def test_prompts_are_neither_cut_nor_filled(tmp_path: Path) -> None:
    assert load(write_folder(tmp_path)).tokenizer.encode("a b a").ids == [0, 1, 0]


def test_the_path_of_the_weights_is_enough_to_find_tokenizer_and_end_tokens(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tokenizer_config={"eos_token": "</s>"}, generation_config={"eos_token_id": 3})
    tokenizer, eos_ids = load_encoding(folder)
    assert (tokenizer.encode("a b").ids, eos_ids) == ([0, 1], {2, 3})
    gguf = tmp_path / "m.gguf"
    write_metadata(gguf, **sentence_piece_metadata())
    tokenizer, eos_ids = load_encoding(gguf)
    expected = load_tokenizer(ModelFiles("m", None, gguf, tmp_path))
    assert (tokenizer.to_str(), eos_ids) == (expected.tokenizer.to_str(), expected.eos_ids)


def test_special_tokens_are_plain_text_whatever_their_form(tmp_path: Path) -> None:
    config = {"eos_token": {"content": "</s>", "lstrip": False}, "bos_token": None, "add_bos_token": True}
    found = load(write_folder(tmp_path, tokenizer_config=config, special_tokens_map={"pad_token": "b"}))
    assert found.config == {"eos_token": "</s>", "pad_token": "b", "add_bos_token": True}
    assert found.eos_ids == {2}


@pytest.mark.parametrize(
    ("generation", "model", "expected"),
    [
        ({"eos_token_id": [3, 1]}, {}, {1, 2, 3}),
        ({"eos_token_id": 3}, {"eos_token_id": 0}, {2, 3}),
        ({}, {"eos_token_id": 0}, {0, 2}),
        ({"eos_token_id": None}, {}, {2}),
    ],
)
def test_end_tokens_are_those_of_generation_and_tokenizer(
    generation: Any, model: Any, expected: set[int], tmp_path: Path
) -> None:
    files = {"generation_config": generation, "config": model, "tokenizer_config": {"eos_token": "</s>"}}
    assert load(write_folder(tmp_path, **files)).eos_ids == expected


@pytest.mark.parametrize(("length", "expected"), [(2048, 2048), (1e30, None), (None, None), (-1, None), ("x", None)])
def test_a_longest_input_without_meaning_is_none(length: Any, expected: int | None, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tokenizer_config={"model_max_length": length})
    assert load(folder).model_max_length == expected


def test_the_template_comes_from_the_most_specific_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert load(folder).chat_template is None
    write_folder(tmp_path, tokenizer_config={"chat_template": "config"})
    assert load(folder).chat_template == "config"
    write_folder(tmp_path, chat_template={"chat_template": "json"})
    assert load(folder).chat_template == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja ü", encoding="utf-8")
    assert load(folder).chat_template == "jinja ü"
    given = tmp_path / "given.json"
    given.write_text('{"chat_template": "given", "eos_token": "<eot>"}')
    found = load(folder, given)
    assert (found.chat_template, found.eos_ids) == ("given", {3})
    given.write_text('{"eos_token": "<eot>"}')
    assert load(folder, given).chat_template == "jinja ü"


def test_named_templates_keep_their_names(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    assert load(write_folder(tmp_path, tokenizer_config={"chat_template": named})).chat_template == named
    write_folder(tmp_path, tokenizer_config={"chat_template": {one["name"]: one["template"] for one in named}})
    assert load(tmp_path).chat_template == named
    write_folder(tmp_path, tokenizer_config={"chat_template": [1]})
    with pytest.raises(ModelError, match="`chat_template` is neither"):
        load(tmp_path)


def test_templates_beside_the_default_one_are_named_after_their_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T", encoding="utf-8")
    (folder / "chat_template.jinja").write_text("D", encoding="utf-8")
    assert load(folder).chat_template == [
        {"name": "default", "template": "D"},
        {"name": "tool_use", "template": "T"},
    ]


def test_a_gguf_file_brings_its_own(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_metadata(path, **sentence_piece_metadata(), chat_template="T")
    found = load_tokenizer(ModelFiles("m", None, path, write_folder(tmp_path)))
    assert found.tokenizer.encode("hello").tokens == ["<s>", "▁hello"]
    assert (found.chat_template, found.eos_ids, found.model_max_length) == ("T", {2}, 64)
    given = tmp_path / "given.json"
    given.write_text('{"chat_template": "given"}')
    assert load_tokenizer(ModelFiles("m", None, path, tmp_path), given).chat_template == "given"


@pytest.mark.parametrize(
    ("name", "content", "fault", "code"),
    [
        ("tokenizer.json", None, r"has no tokenizer\.json", 12),
        ("tokenizer.json", b"{}", "not a tokenizer", 16),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8", 16),
        ("tokenizer_config.json", b"[]", "not a JSON object", 16),
        ("tokenizer_config.json", b"[" * 1_000_000, "not a JSON object", 16),
        ("generation_config.json", b'{"eos_token_id": "2"}', "`eos_token_id` is '2'", 16),
        ("chat_template.jinja", b"\xff", "not UTF-8", 16),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    name: str, content: bytes | None, fault: str, code: int, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=fault) as refusal:
        load(tmp_path)
    assert refusal.value.exit_code == code


def test_a_file_over_the_limit_is_not_even_read(tmp_path: Path) -> None:
    with (write_folder(tmp_path) / "tokenizer.json").open("r+b") as file:
        file.truncate(tokenizer_files._MAX_FILE_BYTES + 1)
    with pytest.raises(ModelError, match="over the limit of 67108864") as refusal:
        load(tmp_path)
    assert refusal.value.exit_code == 16


def test_a_tokenizer_config_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist") as refusal:
        load(write_folder(tmp_path), tmp_path / "absent.json")
    assert refusal.value.exit_code == 12
