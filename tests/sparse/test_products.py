"""Products, co-occurrence and ridge regressions against dense ones, whole and in small blocks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from random_matrices import random_matrix

from recgraph.sparse import products as _products
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import (
    co_occurrence,
    compose,
    distinct,
    n_pairs,
    neighbours,
    presence,
    ridge_rows,
)
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import Backend, spmm


def _matrix(seed: int, shape: tuple[int, int], density: float, weighted: bool = True) -> Csr:
    made = sp.random_array(shape, density=density, rng=np.random.default_rng(seed))
    made.data = np.ceil(made.data * 9)
    adj = Csr.from_scipy(made)
    return adj if weighted else adj.with_weights(None)


@pytest.mark.parametrize("density", [0.01, 0.3])
@pytest.mark.parametrize("weighted", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("small_blocks", [False, True])
def test_counts_equal_scipy(
    density: float, weighted: tuple[bool, bool], small_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_blocks:
        monkeypatch.setattr(_products, "_MAX_CELLS", 200)
        monkeypatch.setattr(_products, "_MAX_PAIRS", 300)
    a, b = _matrix(0, (60, 50), density, weighted[0]), _matrix(1, (50, 70), density, weighted[1])
    expected = (a.to_scipy().astype(float) @ b.to_scipy().astype(float)).tocsr()
    expected.sort_indices()
    product = compose(a, b)
    assert np.array_equal(product.indptr, expected.indptr)
    assert np.array_equal(product.indices, expected.indices)
    assert np.array_equal(product.values(), expected.data)
    binary = compose(a, b, "binary")
    assert binary.weights is None
    assert torch.equal(binary.indices, product.indices)
    assert (n_pairs(a, b) >= product.degrees).all()


N_COLUMNS = 13


def _histories(device: torch.device | str = "cpu") -> tuple[Ragged, np.ndarray]:
    draw = np.random.default_rng(5)
    lists = [draw.integers(0, N_COLUMNS - 1, draw.integers(0, 9)).tolist() for _ in range(30)]
    dense = np.zeros((len(lists), N_COLUMNS))
    for row, values in enumerate(lists):
        dense[row, values] = 1
    return Ragged.from_lists(lists, torch.device(device)), dense


def _whole(rows: Ragged, weights: torch.Tensor | None = None) -> np.ndarray:
    blocks = list(co_occurrence(presence(rows, N_COLUMNS, weights)))
    assert [first for first, _ in blocks] == np.cumsum([0, *(len(b) for _, b in blocks)])[
        :-1
    ].tolist()
    return torch.cat([block for _, block in blocks]).cpu().numpy()


def test_distinct(device: torch.device) -> None:
    rows, dense = _histories(device)
    assert distinct(rows, N_COLUMNS).to_lists() == [np.flatnonzero(row).tolist() for row in dense]


@pytest.mark.parametrize(
    ("pairs", "cells"), [(1 << 21, 1 << 21), (1, 1 << 21), (1 << 21, 3 * N_COLUMNS), (60, 65)]
)
def test_equals_the_dense_product(
    pairs: int, cells: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_products, "_MAX_COUNT_PAIRS", pairs)
    monkeypatch.setattr(_products, "_MAX_COUNT_CELLS", cells)
    rows, dense = _histories(device)
    rows = distinct(rows, N_COLUMNS)
    np.testing.assert_array_equal(_whole(rows), dense.T @ dense)
    weights = np.random.default_rng(1).random(len(dense))
    made = _whole(rows, torch.from_numpy(weights).to(device))
    np.testing.assert_allclose(made, (dense.T * weights) @ dense, rtol=1e-12)
    dense *= np.random.default_rng(2).random(dense.shape)
    blocks = [block for _, block in co_occurrence(Csr.from_dense(torch.from_numpy(dense**2)))]
    np.testing.assert_allclose(torch.cat(blocks), dense.T @ dense, rtol=1e-12)


def _interactions(n_rows: int, n_columns: int, seed: int = 0, hubs: int = 0) -> Ragged:
    """Rows of about five columns, some of which are in the first few, which nearly all rows
    hold.
    """
    draw = np.random.default_rng(seed)
    lists = [
        [*draw.integers(0, n_columns, 4), *draw.integers(0, hubs or n_columns, 1)]
        for _ in range(n_rows)
    ]
    return distinct(Ragged.from_lists([[int(x) for x in one] for one in lists]), n_columns)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cells", [1 << 21, 3000])
def test_sparse_neighbours_are_those_of_dense_rows_bit_for_bit(
    k: int, weighted: bool, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _interactions(1500, 700, seed=k, hubs=5)
    weights = (
        torch.rand(1500, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        if weighted
        else None
    )
    assert _products._PARTIAL * k < 700
    monkeypatch.setattr(_products, "_MAX_COUNT_CELLS", cells)
    matrix = presence(rows, 700, weights)
    made = neighbours(matrix, k, 1.5)
    block = torch.cat([block for _, block in co_occurrence(matrix)])
    norms = torch.bincount(rows.values, minlength=700).double().sqrt()
    top, where = block.fill_diagonal_(0).div_(norms[:, None] * norms + 1.5).topk(k)
    # many are equal: which of them are kept, and their order, is part of the numbers
    assert weighted or bool((top[:, 1:] == top[:, :-1]).any()) or k == 1
    assert torch.equal(made[0], where * (top > 0))
    assert torch.equal(made[1], top.float())


def test_work_of_neighbours_grows_with_the_columns_and_not_their_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells: list[int] = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda x, k: (cells.append(x.numel()), topk(x, k))[1])
    for n in (1_000, 4_000):
        cells.clear()
        neighbours(presence(_interactions(n, n), n), 2)
        assert sum(cells) <= 1.2 * _products._PARTIAL * 2 * n


def _case(device: torch.device) -> tuple[Ragged, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    lists = [torch.randperm(11, generator=draw)[: n % 12].tolist() for n in range(25)]
    table = torch.randn(11, 4, generator=draw, dtype=torch.float64)
    ridge = torch.rand(25, generator=draw, dtype=torch.float64) + 0.1
    return Ragged.from_lists(lists, device), table.to(device), ridge.to(device)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cells", [1 << 22, 100, 1])
def test_rows_are_solved(
    cells: int, weighted: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_products, "_MAX_RIDGE_CELLS", cells)
    rows, table, ridge = _case(device)
    w = (
        torch.rand(len(rows.values), dtype=torch.float64, device=device)
        if weighted
        else torch.ones_like(rows.values)
    )
    matrix = Csr.from_coo(rows.rows, rows.values, w if weighted else None, shape=(25, 11))
    expected = torch.zeros(25, 4, dtype=torch.float64, device=device)
    for row, items in enumerate(rows.to_lists()):
        named = torch.zeros(11, dtype=torch.float64, device=device)
        named[items] = w[rows.rows == row].double()
        normal = table.T @ ((1 + 2.5 * named)[:, None] * table) + ridge[row] * torch.eye(4).to(
            table
        )
        expected[row] = torch.linalg.solve(normal, table.T @ ((named > 0) + 2.5 * named))
    torch.testing.assert_close(
        ridge_rows(matrix, table, 2.5, ridge), expected, rtol=1e-9, atol=1e-12
    )


def test_a_type_that_is_too_narrow_is_left(device: torch.device) -> None:
    """More columns than vectors, and a ridge that float32 loses beside them."""
    draw = torch.Generator().manual_seed(3)
    table = 30 * torch.randn(6, 40, generator=draw).to(device)
    rows = presence(Ragged.from_lists([[0, 1, 2, 3], [], [4], [0, 5]], device), 6)
    ridge = torch.full((4,), 1e-4, device=device)
    narrow = ridge_rows(rows, table, 1000.0, ridge)
    assert narrow.dtype == torch.float32
    wide = ridge_rows(rows, table.double(), 1000.0, ridge.double())
    torch.testing.assert_close(narrow, wide.float(), rtol=1e-5, atol=1e-7)
    with pytest.raises(torch.linalg.LinAlgError):
        ridge_rows(rows, table, 1000.0, torch.full((4,), 1e-30, device=device))


# -- the contract of sparse times dense: every backend gives the same values and gradients

# (shape, entries): rectangular, empty rows and columns, several entries at one place, none at all
SHAPES = {
    "wide": ((30, 60), 90),
    "tall": ((60, 20), 200),
    "dense": ((7, 5), 300),
    "empty": ((4, 3), 0),
}
RTOL = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=["torch", "pyg", "dgl"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "dgl":
        request.getfixturevalue("dgl")
    name: Backend = request.param
    return name


@pytest.fixture(params=sorted(SHAPES))
def adj(request: pytest.FixtureRequest, device: torch.device) -> Csr:
    (n_rows, n_cols), n = SHAPES[request.param]
    matrix = random_matrix(n_rows, n_cols, n, torch.Generator().manual_seed(0), weighted=True)
    return matrix.to(device, torch.float64)


def _inputs(adj: Csr, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(adj.shape[1], 8, generator=draw, dtype=torch.float64)
    y = torch.randn(adj.shape[0], 8, generator=draw, dtype=torch.float64)
    return x.to(adj.device, dtype).requires_grad_(), y.to(adj.device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_are_those_of_the_dense_product(
    adj: Csr, backend: Backend, dtype: torch.dtype, weighted: bool
) -> None:
    x, y = _inputs(adj, dtype)
    weights = adj.values(dtype).clone().requires_grad_() if weighted else None
    result = spmm(adj.with_weights(weights), x, backend)
    assert result.dtype == dtype
    wanted = (x, weights) if weights is not None else (x,)
    grads = torch.autograd.grad((result * y).sum(), wanted)

    dense = adj.with_weights(weights).to_dense().to(dtype)
    expected = dense @ x
    torch.testing.assert_close(result, expected, rtol=RTOL[dtype], atol=RTOL[dtype])
    for got, ours in zip(grads, torch.autograd.grad((expected * y).sum(), wanted), strict=True):
        torch.testing.assert_close(got, ours, rtol=RTOL[dtype], atol=RTOL[dtype])


def test_mixed_precision_rounds_no_product(adj: Csr, backend: Backend) -> None:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        x, y = _inputs(adj, torch.float32)
        result = spmm(adj, x, backend)
        return result, torch.autograd.grad((result * y).sum(), x)[0]

    exact = run()
    with torch.autocast(adj.device.type, torch.bfloat16):
        mixed = run()
    for ours, theirs in zip(mixed, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_same_bit_for_bit_on_cpu(backend: Backend) -> None:
    adj = random_matrix(200, 300, 5000, torch.Generator().manual_seed(0), weighted=True)

    def run() -> tuple[torch.Tensor, ...]:
        fresh = Csr(adj.indptr, adj.indices, adj.values().clone().requires_grad_(), adj.shape)
        x, y = _inputs(fresh, torch.float32)
        result = spmm(fresh, x, backend)
        return result, *torch.autograd.grad((result * y).sum(), (x, fresh.values()))

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_derivatives_of_both_orders(backend: Backend) -> None:
    adj = random_matrix(6, 5, 12, torch.Generator().manual_seed(2), weighted=True)
    x = torch.rand(
        5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True
    )
    weights = adj.values(torch.float64).clone().requires_grad_()

    def product(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return spmm(adj.with_weights(weights), x, backend)

    assert torch.autograd.gradcheck(product, (x, weights))
    assert torch.autograd.gradgradcheck(product, (x, weights))


def test_weights_in_the_type_of_x(device: torch.device) -> None:
    adj = random_matrix(6, 5, 12, torch.Generator().manual_seed(2), weighted=True).to(
        device, torch.float64
    )
    x = torch.rand(5, 3, device=device)
    weights = adj.values().clone().requires_grad_()
    result = spmm(adj.with_weights(weights), x)
    assert result.dtype == torch.float32
    result.sum().backward()
    assert weights.grad is not None
    assert weights.grad.dtype == torch.float64
    half = spmm(adj, x.to(torch.bfloat16).requires_grad_())
    half.sum().backward()
    torch.testing.assert_close(half.float(), result, rtol=3e-2, atol=3e-2)
