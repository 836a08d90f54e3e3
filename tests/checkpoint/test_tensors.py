"""The error for a tensor that is not there."""

from __future__ import annotations

from tgi.checkpoint.tensors import missing_tensor


def test_a_missing_tensor_is_named_with_the_nearest_that_exist() -> None:
    error = missing_tensor("model.gguf", "model.norm.weigth", ["model.norm.weight", "lm_head.weight"])
    assert error.message == "`model.gguf` has no tensor `model.norm.weigth`"
    assert error.hint == "nearest names: model.norm.weight"
    assert error.exit_code == 16
