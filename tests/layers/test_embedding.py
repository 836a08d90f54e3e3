"""One table leads from ids to vectors and from vectors to scores."""

from __future__ import annotations

import torch

from tests.layers.test_linear import matrix
from tgi.layers.embedding import Embedding, LMHead


def test_an_id_becomes_its_row() -> None:
    table = torch.randn(6, 8)

    assert torch.equal(Embedding(matrix(table))(torch.tensor([5, 0, 5], dtype=torch.int32)), table[[5, 0, 5]])


def test_every_row_scores_a_vector() -> None:
    table, hidden = torch.randn(6, 8), torch.randn(2, 8)

    torch.testing.assert_close(LMHead(matrix(table))(hidden), hidden @ table.T)
