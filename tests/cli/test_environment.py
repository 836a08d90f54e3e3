"""The hub's token is found where TGI's users put it, and no report ever shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi.cli.environment import compute_type, hub_settings, hub_token, runtime_report


def test_the_token_comes_from_tgis_variables_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    assert hub_token() is None
    monkeypatch.setenv("HF_API_TOKEN", "third")
    assert hub_token() == "third"
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "second")
    assert hub_token() == "second"
    monkeypatch.setenv("HF_TOKEN", "first")
    assert hub_token() == "first"
    monkeypatch.setenv("HF_TOKEN", " ")
    assert hub_token() == "second"


def test_the_report_names_versions_and_hides_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    report = dict(runtime_report())
    assert report["tgi"]
    assert report["torch"]
    assert report["HF_TOKEN"] == "set (not shown)"
    assert "hf_secret" not in str(report)


def test_a_package_says_where_its_default_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TGI_DEFAULT_MODEL", raising=False)
    assert hub_settings().packaged_default is None
    monkeypatch.setenv("TGI_DEFAULT_MODEL", "/package/model.gguf")
    assert hub_settings().packaged_default == Path("/package/model.gguf")


def test_a_gpu_driver_that_fails_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/nonexistent/nvidia-smi")
    assert dict(runtime_report())["gpus"].startswith("nvidia-smi failed")


def test_the_compute_type_is_what_the_host_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPUTE_TYPE", "cpu+optimized")
    assert compute_type() == "cpu+optimized"
    monkeypatch.setenv("COMPUTE_TYPE", "")
    assert compute_type() is None
