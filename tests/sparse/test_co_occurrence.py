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
    monkeypatch.setattr(module, "_MAX_PAIRS", pairs)
    monkeypatch.setattr(module, "_MAX_CELLS", cells)
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


def test_nothing_at_all() -> None:
    index, similarity = neighbours(Ragged.from_lists([[], []]), 3, 2)
    assert not index.any()
    assert not similarity.any()
