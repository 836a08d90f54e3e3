"""What `tgi download` does beyond finding a model: conversion, bases, merging, plans."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from tests.fake_hub import FakeHub
from tgi.config import Model
from tgi.errors import ConfigError, ModelError
from tgi.hub.download import HubSettings
from tgi.hub.fetch import Fetched, Wish, fetch, make_plan
from tgi.hub.selection import Plan
from tgi.hub.watch import Watcher

BASE = {
    "config.json": b'{"model_type": "x"}', "tokenizer.json": b"{ }",
    "model.safetensors": save({"l.q.weight": torch.ones(3, 2)}),
}  # fmt: skip
ADAPTER = {
    "adapter_config.json": json.dumps({"base_model_name_or_path": "a/base", "r": 1, "lora_alpha": 2}).encode(),
    "adapter_model.safetensors": save({
        "base_model.model.l.q.lora_A.weight": torch.ones(1, 2), "base_model.model.l.q.lora_B.weight": torch.ones(3, 1),
    }),
}  # fmt: skip


def pickle(tensors: dict[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


class Run:
    """Fetches from a fake hub into one folder."""

    def __init__(self, hub: FakeHub, folder: Path) -> None:
        self.settings = HubSettings(endpoint=hub.endpoint, model_cache=folder / "own" / "models")
        self.cache = folder / "hub"

    def model(self, model_id: str | None, **settings: Any) -> Model:
        return Model(model_id=model_id, huggingface_hub_cache=self.cache, **settings)

    def __call__(self, model_id: str, wish: Wish | None = None, **settings: Any) -> Fetched:
        return fetch(self.model(model_id, **settings), wish or Wish(), environment=self.settings, watcher=Watcher())

    def plan(self, model_id: str | None, **settings: Any) -> Plan:
        return make_plan(self.model(model_id, **settings), Wish(), environment=self.settings)


@pytest.fixture
def run(fake_hub: FakeHub, tmp_path: Path) -> Run:
    return Run(fake_hub, tmp_path)


def test_a_second_time_nothing_is_asked_for(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", BASE)
    assert not run("a/base").was_here
    fake_hub.seen.clear()
    assert run("a/base").was_here
    assert fake_hub.seen == []


def test_a_revision_may_be_part_of_the_name(run: Run, fake_hub: FakeHub) -> None:
    first = fake_hub.add("a/base", BASE, branch="v1")
    fake_hub.add("a/base", BASE | {"tokenizer.json": b"{  }"})
    assert run("a/base@v1").files.revision == first
    with pytest.raises(ConfigError, match="two revisions"):
        run("a/base@v1", revision="v2")


def test_pickles_are_converted_in_place_when_asked_and_then_served(run: Run, fake_hub: FakeHub) -> None:
    weights = {"a": torch.ones(2), "b": torch.zeros(3)}
    files = {name: data for name, data in BASE.items() if not name.endswith(".safetensors")}
    fake_hub.add("a/old", files | {"pytorch_model.bin": pickle(weights)})
    with pytest.raises(ModelError, match="only pickled") as refusal:
        run("a/old")
    assert (refusal.value.exit_code, fake_hub.fetched()) == (16, [])
    done = run("a/old", Wish(convert=True))
    assert done.made == ("model.safetensors",)
    assert load_file(done.files.folder / "model.safetensors").keys() == weights.keys()
    assert run("a/old").was_here


def test_a_local_folder_is_converted_without_the_hub(run: Run, fake_hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(pickle({"a": torch.ones(2)}))
    with pytest.raises(ModelError, match="only pickled"):
        run(str(folder))
    assert run(str(folder), Wish(convert=True)).made == ("model.safetensors",)
    assert run("x", weights_cache_override=folder).files.path == folder
    assert fake_hub.seen == []


def test_an_adapter_brings_its_base(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", BASE)
    fake_hub.add("a/adapter", ADAPTER)
    done = run("a/adapter")
    assert done.base is not None
    assert (done.base.model_id, done.was_here) == ("a/base", False)
    assert (done.base.folder / "model.safetensors").exists()
    fake_hub.seen.clear()
    assert run("a/adapter").was_here
    assert fake_hub.seen == []


def test_a_merged_adapter_is_a_model_of_its_own(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", BASE)
    fake_hub.add("a/adapter", ADAPTER)
    done = run("a/adapter", Wish(merge_lora=True))
    merged = load_file(done.files.folder / "model.safetensors")
    assert torch.equal(merged["l.q.weight"], torch.full((3, 2), 3.0))
    again = run("a/adapter", Wish(merge_lora=True))
    assert (again.was_here, again.made, again.files.folder) == (True, (), done.files.folder)


def test_draft_heads_bring_their_base(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", BASE)
    config = json.dumps({"medusa_num_heads": 2, "base_model_name_or_path": "a/base"}).encode()
    fake_hub.add("a/medusa", {"config.json": config, "medusa_lm_head.safetensors": b"w"})
    done = run("a/medusa")
    assert done.base is not None
    assert done.base.model_id == "a/base"
    fake_hub.add("a/old", {"config.json": config, "medusa_lm_head.pt": pickle({"0.w": torch.ones(1)})})
    assert run("a/old", Wish(convert=True)).made == ("medusa_lm_head.safetensors",)


def test_a_repository_without_tokenizer_is_fetched_and_what_it_lacks_is_known(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", {name: data for name, data in BASE.items() if name != "tokenizer.json"})
    done = run("a/base")
    assert (done.lacks, done.was_here) == (["tokenizer.json"], False)
    assert run("a/base").was_here
    fake_hub.add("a/whole", BASE)
    assert run("a/whole").lacks == []
    fake_hub.close()
    assert run("a/base").lacks == ["tokenizer.json"]


def test_what_another_program_left_out_is_fetched(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", BASE)
    folder = run("a/base").files.folder
    (folder / "tokenizer.json").resolve().unlink()
    (folder / "tokenizer.json").unlink()
    assert not run("a/base").was_here
    assert (folder / "tokenizer.json").read_bytes() == BASE["tokenizer.json"]


def test_a_plan_fetches_and_writes_nothing(run: Run, fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("a/base", BASE | {"README.md": b"r"})
    plan = run.plan("a/base")
    assert {file.path: file.size for file in plan.files} == {name: len(data) for name, data in BASE.items()}
    assert plan.missing_bytes == plan.total_bytes > 0
    assert list(tmp_path.iterdir()) == []
    assert not [seen for seen in fake_hub.seen if "/resolve/" in seen.path]
    run("a/base")
    assert run.plan("a/base").missing_bytes == 0


def test_the_default_models_plan_is_known_without_the_hub(run: Run) -> None:
    plan = run.plan(None)
    assert (plan.total_bytes, plan.commit) == (98362432, None)
    with pytest.raises(ModelError):
        run.plan(None, revision="v1")


def test_a_name_that_is_nearly_right_is_offered(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.add("a/base", BASE)
    run("a/base")
    for attempt in (run, run.plan):
        with pytest.raises(ModelError) as refusal:
            attempt("a/Bass")
        assert (refusal.value.hint or "").startswith("did you mean `a/base`")
