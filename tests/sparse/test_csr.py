"""Csr against dense tensors and scipy: construction, transposes, selections, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from random_matrices import random_matrix

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Normalisation, Sum, compress_rows, mean_of, normalise
from recgraph.sparse.products import compose
from recgraph.sparse.spmm import Operator, spmm


def random_csr(
    seed: int,
    shape: tuple[int, int] = (9, 7),
    n: int = 40,
    weighted: bool = True,
    device: torch.device | None = None,
) -> Csr:
    """With several entries at one place, an empty row and an empty column."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(shape[0], (n,), generator=draw)
    cols = torch.randint(shape[1], (n,), generator=draw)
    rows[rows == 2], cols[cols == 1] = 3, 0
    rows, cols = torch.cat([rows, rows[:5]]), torch.cat([cols, cols[:5]])
    weights = torch.rand(n + 5, generator=draw, dtype=torch.float64) + 0.1 if weighted else None
    return Csr.from_coo(rows, cols, weights, shape=shape).to(device)


@pytest.mark.parametrize("weighted", [True, False])
def test_entries_in_any_order(weighted: bool, device: torch.device) -> None:
    adj = random_csr(0, weighted=weighted, device=device)
    dense = torch.zeros(adj.shape, dtype=adj.values().dtype, device=device)
    for row, col, value in zip(
        adj.rows.tolist(), adj.indices.tolist(), adj.values().tolist(), strict=True
    ):
        dense[row, col] += value
    torch.testing.assert_close(adj.to_dense(), dense)
    for row in range(adj.shape[0]):
        columns = adj.indices[adj.indptr[row] : adj.indptr[row + 1]]
        assert (columns.diff() >= 0).all()
    assert adj.nnz == 45


def test_equal_places_keep_their_order() -> None:
    rows, cols = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 0, 2, 1])
    adj = Csr.from_coo(rows, cols, torch.tensor([5.0, 6.0, 7.0, 8.0]), shape=(2, 3))
    assert adj.weights is not None
    assert adj.weights.tolist() == [6, 8, 5, 7]
    summed = Csr.from_coo(
        rows, cols, torch.tensor([5.0, 6.0, 7.0, 8.0]), shape=(2, 3), duplicates="sum"
    )
    assert summed.values().tolist() == [6, 8, 12]
    assert summed.indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("weighted", [True, False])
def test_transpose_and_back(weighted: bool, device: torch.device) -> None:
    adj = random_csr(1, weighted=weighted, device=device)
    torch.testing.assert_close(adj.t().to_dense(), adj.to_dense().T)
    back = adj.t().t()
    assert torch.equal(back.indices, adj.indices)
    assert torch.equal(back.values(), adj.values())
    assert adj.t() is adj.t()
    # other weights in the same places do not transpose again
    assert adj.with_weights(adj.values() * 2).t().indices is adj.t().indices


def test_scipy_round_trip() -> None:
    matrix = sp.random_array((30, 20), density=0.2, rng=np.random.default_rng(0), format="csc")
    back = Csr.from_scipy(matrix).to_scipy()
    assert abs(back - matrix).max() == 0
    counts = Csr.from_scipy(sp.csr_array(np.array([[2, 0], [0, 1]])))
    assert counts.values().dtype == torch.get_default_dtype()


def test_sums_and_scaling(device: torch.device) -> None:
    adj = random_csr(3, device=device)
    torch.testing.assert_close(adj.row_sums(), adj.to_dense().sum(1))
    left, right = torch.arange(9.0, device=device), torch.arange(7.0, device=device)
    scaled = adj.scale(left, right).to_dense()
    torch.testing.assert_close(scaled, left[:, None] * adj.to_dense() * right, check_dtype=False)
    plain = random_csr(3, weighted=False, device=device)
    torch.testing.assert_close(plain.row_sums(), plain.to_dense().sum(1))


def test_rows_and_selections(device: torch.device) -> None:
    adj = random_csr(4, device=device)
    rows = torch.tensor([5, 2, 5, 0], device=device)
    torch.testing.assert_close(adj.take_rows(rows).to_dense(), adj.to_dense()[rows])
    torch.testing.assert_close(adj.row_block(slice(3, 6)).to_dense(), adj.to_dense()[3:6])
    keep_mask = adj.values() > 0.5
    expected = adj.with_weights(adj.values() * keep_mask).to_dense()
    kept = adj.select(keep_mask)
    assert kept.nnz == int(keep_mask.sum())
    torch.testing.assert_close(kept.to_dense(), expected)


def test_entries_are_found_by_their_places(device: torch.device) -> None:
    adj = Csr.from_dense(torch.tensor([[0.0, 3.0, 0.0], [4.0, 0.0, 5.0]], device=device))
    rows, columns = torch.cartesian_prod(
        torch.arange(2, device=device), torch.arange(3, device=device)
    ).T
    assert adj.entries_at(rows, columns).tolist() == [-1, 0, -1, 1, -1, 2]
    empty = Csr.from_dense(torch.zeros(2, 3, device=device))
    assert empty.entries_at(rows, columns).tolist() == [-1] * 6


def test_diagonals(device: torch.device) -> None:
    adj = random_csr(5, (8, 8), device=device)
    dense = adj.to_dense()
    torch.testing.assert_close(adj.diagonal(), dense.diagonal())
    off = dense - torch.diag(dense.diagonal())
    torch.testing.assert_close(adj.with_diagonal(None).to_dense(), off)
    eye = torch.eye(8, dtype=dense.dtype, device=device)
    torch.testing.assert_close(adj.with_diagonal(2.0).to_dense(), off + 2 * eye)
    pattern = adj.pattern()
    assert pattern.weights is None
    assert pattern.with_diagonal(1).weights is None
    torch.testing.assert_close(
        pattern.with_diagonal(1).to_dense(), ((off != 0) + eye).to(torch.float32)
    )


def _oracle(dense: torch.Tensor, kind: str) -> torch.Tensor:
    def root(sums: torch.Tensor, power: float) -> torch.Tensor:
        return torch.tensor([s**power if s > 0 else 0.0 for s in sums.tolist()], dtype=dense.dtype)

    rows, cols = dense.sum(1), dense.sum(0)
    return {
        "row": lambda: root(rows, -1)[:, None] * dense,
        "column": lambda: dense * root(cols, -1),
        "symmetric": lambda: root(rows, -0.5)[:, None] * dense * root(cols, -0.5),
        "meow": lambda: root(rows, -0.5)[:, None] * dense.T * root(rows, -0.5),
    }[kind]()


@pytest.mark.parametrize("kind", ["row", "column", "symmetric", "meow"])
def test_normalisation(kind: Normalisation, device: torch.device) -> None:
    adj = random_csr(7, (8, 8), device=device)
    expected = _oracle(adj.to_dense().to("cpu"), kind)
    torch.testing.assert_close(
        normalise(adj, kind).to_dense().to("cpu"), expected, rtol=1e-14, atol=1e-14
    )


def same_products(ours: Operator, theirs: Operator, x: torch.Tensor) -> None:
    """With a dense matrix, and their gradients."""
    torch.testing.assert_close(spmm(ours, x), spmm(theirs, x), rtol=1e-12, atol=1e-14)
    grads = [torch.autograd.grad((spmm(each, x) ** 2).sum(), x)[0] for each in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


def test_mean_of_matrices(device: torch.device) -> None:
    parts = [random_csr(seed, device=device) for seed in (1, 2, 3)]
    torch.testing.assert_close(mean_of(parts).to_dense(), sum(p.to_dense() for p in parts) / 3)
    with pytest.raises(ValueError):
        mean_of([random_csr(1), random_csr(1, (5, 9))])


# -- chains, sums and compressed rows against what they stand for; what is shared is shared on a
# device


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
    assert torch.equal(compose(*small.factors).to_dense().double(), adj.to_dense().double())


@pytest.mark.parametrize("kind", ["row", "column", "symmetric", "meow"])
def test_a_sum_equals_what_it_makes(kind: Normalisation, device: torch.device) -> None:
    first, second = (
        _repeated(device),
        random_matrix(60, 60, 400, torch.Generator().manual_seed(1)).to(device),
    )
    second = second.with_weights(second.values(torch.float64))
    both = Sum((compress_rows(first), second), (2.0, 0.5))
    made = Csr.from_dense(2 * first.to_dense() + 0.5 * second.to_dense())
    x = torch.rand(60, 4, dtype=torch.float64, device=device, requires_grad=True)
    torch.testing.assert_close(both.row_sums(), made.row_sums())
    for ours, theirs in (
        (both, made),
        (both.t(), made.t()),
        (normalise(both, kind), normalise(made, kind)),
    ):
        same_products(ours, theirs, x)


@pytest.mark.parametrize("kind", [None, "row", "column", "symmetric", "meow"])
def test_a_chain_equals_its_product(kind: Normalisation | None, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(4)
    factors = (
        random_matrix(30, 12, 36, draw, weighted=True).to(device, torch.float64),
        random_matrix(12, 30, 72, draw).to(device),
    )
    chain, product = Chain(factors), compose(*factors)
    torch.testing.assert_close(chain.row_sums(), product.row_sums(), check_dtype=False)
    if kind is not None:
        chain, product = normalise(chain, kind), normalise(product, kind)
    x = torch.rand(30, 4, dtype=torch.float64, device=device, requires_grad=True)
    same_products(chain, product, x)
    same_products(chain.t(), product.t(), x)
