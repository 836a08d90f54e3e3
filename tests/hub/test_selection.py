"""Which files of a repository are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi.errors import ModelError
from tgi.hub.selection import Plan, PlannedFile, choose, folder_files, is_inside, pickled


def test_weights_come_after_everything_that_goes_with_them() -> None:
    names = ["model-1.safetensors", "config.json", "model.safetensors.index.json", "model-2.safetensors", "README.md"]
    assert choose("m", None, names) == [
        "config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors",
    ]  # fmt: skip


def test_one_file_of_weights_is_enough_when_no_index_names_more() -> None:
    names = ["model.safetensors", "other.safetensors", "config.json"]
    assert choose("m", None, names) == ["config.json", "model.safetensors"]


def test_pickles_are_wanted_only_when_asked_for_and_nothing_is_better() -> None:
    names = ["config.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "pytorch_model.bin.index.json",
             "training_args.bin", "optimizer.pt"]  # fmt: skip
    with pytest.raises(ModelError, match="only pickled") as refusal:
        choose("m", None, names)
    assert (refusal.value.exit_code, "`tgi download --convert m`" in (refusal.value.hint or "")) == (16, True)
    assert choose("m", None, names, convert=True) == [
        "config.json", "pytorch_model.bin.index.json", "pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin",
    ]  # fmt: skip
    assert "model.safetensors" in choose("m", None, [*names, "model.safetensors"], convert=True)
    assert pickled(["a.pt", "b.pt", "training_args.bin"]) == ["a.pt", "b.pt"]


def test_an_adapter_is_its_configuration_and_its_weights() -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert choose("m", None, names) == names[:2]


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a\\b", "c:d", "a\0", ""])
def test_a_name_that_leads_outside_is_refused(name: str) -> None:
    assert not is_inside(name)
    with pytest.raises(ModelError) as refusal:
        choose("m", None, ["model.safetensors", name])
    assert refusal.value.exit_code == 16


def test_a_plan_knows_what_is_left() -> None:
    files = (PlannedFile("a", 10, 10), PlannedFile("b", 10, 4), PlannedFile("c", 5))
    plan = Plan("m", "m", None, None, files)
    assert (plan.total_bytes, plan.missing_bytes) == (25, 11)
    assert [file.is_here for file in files] == [True, False, False]


def test_the_files_of_a_folder_are_those_that_are_served(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "adapter_model.safetensors", "notes.txt", "pytorch_model.bin"):
        (tmp_path / name).touch()
    assert [path.name for path in folder_files(tmp_path)] == ["config.json", "model.safetensors"]
