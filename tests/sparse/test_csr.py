"""Csr against dense tensors and scipy: construction, transposes, selections, normalisation."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Normalisation, mean_of, normalise


def random_csr(
    seed: int, shape: tuple[int, int] = (9, 7), n: int = 40, weighted: bool = True, device: torch.device | None = None
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
    for row, col, value in zip(adj.rows.tolist(), adj.indices.tolist(), adj.values().tolist(), strict=True):
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
    summed = Csr.from_coo(rows, cols, torch.tensor([5.0, 6.0, 7.0, 8.0]), shape=(2, 3), duplicates="sum")
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


def test_what_is_not_used_any_more_is_freed_at_once() -> None:
    """A matrix and its transpose do not hold each other: such rings wait for Python's collector."""
    gc.disable()
    try:
        adj = random_csr(3)
        adj.t().t()
        scaled = adj.t().scale(left=torch.ones(adj.shape[1]))
        held = [weakref.ref(tensor) for tensor in (adj.indices, adj.t().indices, adj.t().t().values())]
        del adj
        # the transpose still knows the way back
        assert held[0]() is not None
        back = scaled.t()
        del scaled, back
        assert [ref() for ref in held] == [None] * 3
    finally:
        gc.enable()


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
    rows, columns = torch.cartesian_prod(torch.arange(2, device=device), torch.arange(3, device=device)).T
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
    torch.testing.assert_close(pattern.with_diagonal(1).to_dense(), ((off != 0) + eye).to(torch.float32))


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
    torch.testing.assert_close(normalise(adj, kind).to_dense().to("cpu"), expected, rtol=1e-14, atol=1e-14)


def test_normalisation_passes_gradients() -> None:
    adj = random_csr(8, (6, 6), n=15)

    def total(weights: torch.Tensor) -> torch.Tensor:
        return (normalise(adj.with_weights(weights), "symmetric").values() ** 2).sum()

    assert torch.autograd.gradcheck(total, adj.values().clone().requires_grad_())


def test_mean_of_matrices(device: torch.device) -> None:
    parts = [random_csr(seed, device=device) for seed in (1, 2, 3)]
    torch.testing.assert_close(mean_of(parts).to_dense(), sum(p.to_dense() for p in parts) / 3)
    with pytest.raises(ValueError):
        mean_of([random_csr(1), random_csr(1, (5, 9))])
