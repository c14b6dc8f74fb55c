"""Co-occurrence against a dense product, whole and in small blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recgraph.sparse import products as module
from recgraph.sparse.products import co_occurrence, distinct, neighbours
from recgraph.sparse.ragged import Ragged

N_COLUMNS = 13


def _rows(device: torch.device | str = "cpu") -> tuple[Ragged, np.ndarray]:
    draw = np.random.default_rng(5)
    lists = [draw.integers(0, N_COLUMNS - 1, draw.integers(0, 9)).tolist() for _ in range(30)]
    dense = np.zeros((len(lists), N_COLUMNS))
    for row, values in enumerate(lists):
        dense[row, values] = 1
    return Ragged.from_lists(lists, torch.device(device)), dense


def _whole(rows: Ragged, weights: torch.Tensor | None = None) -> np.ndarray:
    blocks = list(co_occurrence(rows, N_COLUMNS, weights))
    assert [first for first, _ in blocks] == np.cumsum([0, *(len(b) for _, b in blocks)])[:-1].tolist()
    return torch.cat([block for _, block in blocks]).cpu().numpy()


def test_distinct(device: torch.device) -> None:
    rows, dense = _rows(device)
    assert distinct(rows, N_COLUMNS).to_lists() == [np.flatnonzero(row).tolist() for row in dense]


@pytest.mark.parametrize(("pairs", "cells"), [(1 << 21, 1 << 21), (1, 1 << 21), (1 << 21, 3 * N_COLUMNS), (60, 65)])
def test_equals_the_dense_product(
    pairs: int, cells: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_COUNT_PAIRS", pairs)
    monkeypatch.setattr(module, "_MAX_COUNT_CELLS", cells)
    rows, dense = _rows(device)
    rows = distinct(rows, N_COLUMNS)
    np.testing.assert_array_equal(_whole(rows), dense.T @ dense)
    weights = np.random.default_rng(1).random(len(dense))
    made = _whole(rows, torch.from_numpy(weights).to(device))
    np.testing.assert_allclose(made, (dense.T * weights) @ dense, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 4, 20])
@pytest.mark.parametrize("shrink", [0.0, 2.5])
def test_neighbours(k: int, shrink: float, device: torch.device) -> None:
    rows, dense = _rows(device)
    index, similarity = (x.cpu().numpy() for x in neighbours(distinct(rows, N_COLUMNS), N_COLUMNS, k, shrink))
    assert index.shape == similarity.shape == (N_COLUMNS, k)
    norms = np.linalg.norm(dense, axis=0)
    expected = dense.T @ dense / np.maximum(np.outer(norms, norms) + shrink, 1e-12)
    np.fill_diagonal(expected, 0)
    for i in range(N_COLUMNS):
        best = np.sort(expected[i])[::-1][:k]
        np.testing.assert_allclose(similarity[i], np.pad(best, (0, k - len(best))), rtol=1e-6)
        used = similarity[i] > 0
        np.testing.assert_allclose(expected[i, index[i, used]], similarity[i, used], rtol=1e-6)
        assert not index[i, ~used].any()


def _interactions(n_rows: int, n_columns: int, seed: int = 0, hubs: int = 0) -> Ragged:
    """Rows of about five columns, some of which are in the first few, which nearly all rows hold."""
    draw = np.random.default_rng(seed)
    lists = [[*draw.integers(0, n_columns, 4), *draw.integers(0, hubs or n_columns, 1)] for _ in range(n_rows)]
    return distinct(Ragged.from_lists([[int(x) for x in one] for one in lists]), n_columns)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cells", [1 << 21, 3000])
def test_sparse_neighbours_are_those_of_dense_rows_bit_for_bit(
    k: int, weighted: bool, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _interactions(1500, 700, seed=k, hubs=5)
    weights = torch.rand(1500, generator=torch.Generator().manual_seed(k), dtype=torch.float64) if weighted else None
    assert module._PARTIAL * k < 700
    monkeypatch.setattr(module, "_MAX_COUNT_CELLS", cells)
    made = neighbours(rows, 700, k, 1.5, weights)
    block = torch.cat([block for _, block in co_occurrence(rows, 700, weights)])
    norms = torch.bincount(rows.values, minlength=700).double().sqrt()
    top, where = block.fill_diagonal_(0).div_(norms[:, None] * norms + 1.5).topk(k)
    # many are equal: which of them are kept, and their order, is part of the numbers
    assert weighted or bool((top[:, 1:] == top[:, :-1]).any()) or k == 1
    assert torch.equal(made[0], where * (top > 0))
    assert torch.equal(made[1], top.float())


def test_weights_below_zero_still_count() -> None:
    rows = _interactions(300, 200)
    weights = torch.linspace(-1, 1, 300, dtype=torch.float64)
    index, similarity = neighbours(rows, 200, 2, row_weights=weights)
    block = torch.cat([block for _, block in co_occurrence(rows, 200, weights)])
    norms = torch.bincount(rows.values, minlength=200).double().sqrt()
    top, where = block.fill_diagonal_(0).div_((norms[:, None] * norms).clamp(min=1e-12)).topk(2)
    assert torch.equal(index, where * (top > 0))
    assert torch.equal(similarity, top.float())


def test_work_of_neighbours_grows_with_the_columns_and_not_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    cells: list[int] = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda x, k: (cells.append(x.numel()), topk(x, k))[1])
    for n in (1_000, 4_000):
        cells.clear()
        neighbours(_interactions(n, n), n, 2)
        assert sum(cells) <= 1.2 * module._PARTIAL * 2 * n
