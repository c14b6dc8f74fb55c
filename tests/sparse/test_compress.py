"""Equal rows held once, and sums that are never made."""

from __future__ import annotations

import pytest
import torch

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, Sum, as_mean, compress_rows, mean_of, normalise
from recgraph.sparse.spmm import random_matrix, spmm


def _repeated(device: torch.device, weighted: bool = True) -> Csr:
    draw = torch.Generator().manual_seed(0)
    few = random_matrix(5, 60, 90, draw, weighted=weighted).to(dtype=torch.float64)
    return few.take_rows(torch.randint(5, (60,), generator=draw)).to(device)


@pytest.mark.parametrize("weighted", [True, False])
def test_equal_rows_are_held_once(weighted: bool, device: torch.device) -> None:
    adj = _repeated(device, weighted)
    small = compress_rows(adj)
    assert isinstance(small, Chain)
    assert small.factors[1].shape == (5, 60)
    assert torch.equal(small.to_csr().to_dense().double(), adj.to_dense().double())


def test_rows_that_differ_in_one_weight_are_not_equal() -> None:
    adj = _repeated(torch.device("cpu"))
    weights = adj.values().clone()
    weights[7] += 1e-9
    changed = adj.with_weights(weights)
    small = compress_rows(changed)
    assert isinstance(small, Chain)
    assert small.factors[1].shape == (6, 60)
    assert torch.equal(small.to_csr().to_dense(), changed.to_dense())


@pytest.mark.parametrize("kind", ["row", "column", "symmetric", "meow"])
def test_a_sum_equals_what_it_makes(kind: Normalisation, device: torch.device) -> None:
    first, second = _repeated(device), random_matrix(60, 60, 400, torch.Generator().manual_seed(1)).to(device)
    second = second.with_weights(second.values(torch.float64))
    both = Sum([compress_rows(first), second], [2.0, 0.5])
    made = Csr.from_dense(2 * first.to_dense() + 0.5 * second.to_dense())
    x = torch.rand(60, 4, dtype=torch.float64, device=device, requires_grad=True)
    torch.testing.assert_close(both.row_sums(), made.row_sums())
    for ours, theirs in ((both, made), (both.t(), made.t()), (both.normalise(kind), normalise(made, kind))):
        torch.testing.assert_close(spmm(ours, x), spmm(theirs, x), rtol=1e-12, atol=1e-14)
        grads = [torch.autograd.grad((spmm(op, x) ** 2).sum(), x)[0] for op in (ours, theirs)]
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)
    assert both.nnz < first.nnz + second.nnz
    assert both.to(dtype=torch.float32).nbytes < both.nbytes


def test_a_mean_of_terms(device: torch.device) -> None:
    parts = [_repeated(device), random_matrix(60, 60, 40, torch.Generator().manual_seed(2), weighted=True).to(device)]
    x = torch.rand(60, 2, dtype=torch.float64, device=device)
    doubled = [part.to(dtype=torch.float64) for part in parts]
    torch.testing.assert_close(spmm(as_mean(doubled), x), spmm(mean_of(doubled), x))
