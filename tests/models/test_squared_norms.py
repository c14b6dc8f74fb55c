"""The norms of a batch's vectors: their formula, and the same from row-sparse tables."""

from __future__ import annotations

import torch
from torch import nn

from recgraph.models.collaborative.base import half_squared_norms
from recgraph.sparse.rows import set_sparse

PLACES = (torch.tensor([0, 2, 2]), torch.tensor([[1, 2], [4, 1]]), torch.zeros(0, dtype=torch.int64))


def test_half_the_mean_of_the_squares_at_each_place() -> None:
    table = torch.randn(6, 3, dtype=torch.float64).requires_grad_()
    found = half_squared_norms(table, PLACES)
    want = sum(table[index].square().sum(-1).mean() / 2 for index in PLACES[:2])
    torch.testing.assert_close(found, want)
    (gradient,) = torch.autograd.grad(found, table)
    torch.testing.assert_close(gradient, torch.autograd.grad(want, table)[0])
    assert float(half_squared_norms(table, PLACES[2:])) == 0


def test_a_table_of_row_sparse_gradients_has_the_same() -> None:
    dense, sparse = (nn.Parameter(torch.ones(60, 3)) for _ in range(2))
    nn.init.normal_(dense)
    sparse.data.copy_(dense.data)
    set_sparse(sparse)
    ours, theirs = half_squared_norms(dense, PLACES), half_squared_norms(sparse, PLACES)
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    assert sparse.grad is not None
    assert sparse.grad.is_sparse
    assert dense.grad is not None
    torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
