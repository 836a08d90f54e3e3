"""From token ids to vectors, and from vectors to scores of token ids."""

from __future__ import annotations

from tgi import kernels
from tgi.kernels import Array
from tgi.kernels.weights import Matrix, PackedWeight


class Embedding:
    """A row of a table for each id."""

    def __init__(self, table: Matrix) -> None:
        self.table = table

    def __call__(self, ids: Array) -> Array:
        """[T] int32 -> [T, columns] float32. An id outside the table is an error of the caller."""
        return kernels.embedding(ids, self.table)


class LMHead:
    """Scores of every token of the vocabulary; often the embedding's own table."""

    def __init__(self, table: Matrix) -> None:
        self.weight = PackedWeight((table,))

    def __call__(self, hidden: Array) -> Array:
        """[L, hidden] -> [L, vocab] float32."""
        return kernels.matmul(hidden, self.weight)
