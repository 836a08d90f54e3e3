"""Weights as they are stored."""

from __future__ import annotations

from tests.kernels.matrices import random_matrix
from tgi.kernels import PackedWeight


def test_outputs_of_all_parts_count_and_inputs_are_shared() -> None:
    weight = PackedWeight((random_matrix("F32", 5, 64), random_matrix("Q4_1", 7, 64)))
    assert (weight.rows, weight.columns) == (12, 64)


def test_what_a_backend_prepares_belongs_to_one_weight() -> None:
    parts = (random_matrix("F32", 5, 8),)
    first, second = PackedWeight(parts), PackedWeight(parts)
    first.prepared["cpu"] = 1
    assert not second.prepared
    assert first != second
