"""GF-CF and Turbo-CF against dense numpy in float64, their memory, and what a bundle keeps of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, Space
from recgraph.models.closed_form import graph_filters
from recgraph.models.closed_form.graph_filters import GFCF, TurboCF
from recgraph.sparse.ragged import Ragged

N_ITEMS = 19
Matrix = npt.NDArray[np.float64]


def _lists(seed: int, n_rows: int) -> list[list[int]]:
    """Histories with repeats, some empty; the last item is in none."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, N_ITEMS - 1, draw.integers(0, 12)).tolist() for _ in range(n_rows)]


def _dense(lists: list[list[int]]) -> Matrix:
    x = np.zeros((len(lists), N_ITEMS))
    for row, items in enumerate(lists):
        x[row, items] = 1
    return x


def _diagonal(degrees: npt.NDArray[np.float64], power: float) -> Matrix:
    return np.diag([degree**power if degree else 0.0 for degree in degrees])


def gfcf_scores(r: Matrix, x: Matrix, n_factors: int, alpha: float) -> Matrix:
    """The filters as matrices of items by items."""
    of_users, of_items = r.sum(1), r.sum(0)
    normalised = _diagonal(of_users, -0.5) @ r @ _diagonal(of_items, -0.5)
    v = np.linalg.svd(normalised)[2][:n_factors].T
    ideal = _diagonal(of_items, -0.5) @ v @ v.T @ _diagonal(of_items, 0.5)
    scores: Matrix = x @ (normalised.T @ normalised + alpha * ideal)
    return scores


def turbo_scores(r: Matrix, x: Matrix, alpha: float, s: float, order: str, k: int) -> Matrix:
    """The polynomials as matrices of items by items."""
    normalised = _diagonal(r.sum(1), -alpha) @ r @ _diagonal(r.sum(0), alpha - 1)
    gram = normalised.T @ normalised
    p = np.zeros_like(gram)
    for item in range(len(gram)):  # of the scored item, which is the column
        kept = np.argsort(-gram[:, item], kind="stable")[:k]
        p[kept, item] = np.where(gram[kept, item] > 0, gram[kept, item] ** s, 0)
    made = {"linear": p, "second": 2 * p - p @ p, "third": p + 0.01 * (-p @ p @ p + 10 * p @ p - 29 * p)}
    scores: Matrix = x @ made[order]
    return scores


def _fitted(model: ClosedFormModel, lists: list[list[int]], device: torch.device) -> ClosedFormModel:
    built = model.build(Space(n_users=len(lists), n_items=N_ITEMS)).to(device)
    return built.fit(Part(Ragged.from_lists(lists), N_ITEMS))


def _scores(model: ClosedFormModel, lists: list[list[int]], device: torch.device) -> Matrix:
    query = Query(torch.full((len(lists),), -1), Ragged.from_lists(lists)).to(device)
    scores: Matrix = model.score(query).cpu().double().numpy()
    return scores


@pytest.mark.parametrize("dense", [512, 0], ids=["dense", "lanczos"])
@pytest.mark.parametrize(("n_factors", "alpha"), [(5, 0.3), (1, 1.0), (0, 0.3), (7, 0.0)])
def test_gfcf_is_the_sum_of_both_filters(
    n_factors: int, alpha: float, dense: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_filters, "_DENSE", dense)
    monkeypatch.setattr(graph_filters, "_SIGNALS", 4)  # several blocks of users
    train, asked = _lists(0, 30), _lists(1, 11)
    model = _fitted(GFCF(n_factors=n_factors, ideal_weight=alpha), train, device)
    expected = gfcf_scores(_dense(train), _dense(asked), n_factors, alpha)
    np.testing.assert_allclose(_scores(model, asked, device), expected, rtol=2e-5, atol=2e-6)


def test_a_dense_copy_is_made_of_small_matrices_alone(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Singular vectors of many users and few items are those of the dense copy, without one."""
    train = _lists(0, 40)
    expected = _fitted(GFCF(n_factors=4), train, device)
    monkeypatch.setattr(graph_filters, "_DENSE_CELLS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "svd", None)
        found = _fitted(GFCF(n_factors=4), train, device)
    np.testing.assert_allclose(_scores(found, train, device), _scores(expected, train, device), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("order", ["linear", "second", "third"])
@pytest.mark.parametrize(
    ("alpha", "s", "k"), [(0.5, 1.0, N_ITEMS), (0.6, 0.7, N_ITEMS), (0.4, 1.4, 5), (0.6, 0.7, None), (0.4, 1.4, None)]
)
def test_turbo_cf_is_a_polynomial_of_the_graph_of_items(
    order: str, alpha: float, s: float, k: int | None, device: torch.device
) -> None:
    # of an item with ties at its k-th place either may be kept: weights of distinct users make none
    train, asked = _lists(2, 40), _lists(3, 9)
    model = _fitted(TurboCF(user_power=alpha, power=s, filter=order, k=k), train, device)
    expected = turbo_scores(_dense(train), _dense(asked), alpha, s, order, k or N_ITEMS)
    np.testing.assert_allclose(_scores(model, asked, device), expected, rtol=2e-5, atol=2e-6)


def test_turbo_cf_without_powers_and_one_half_is_gfcf_without_factors(device: torch.device) -> None:
    train, asked = _lists(4, 30), _lists(5, 9)
    one = _fitted(TurboCF(k=N_ITEMS), train, device)
    other = _fitted(GFCF(n_factors=0), train, device)
    np.testing.assert_allclose(_scores(one, asked, device), _scores(other, asked, device), rtol=2e-5, atol=2e-6)


def test_no_filter_takes_memory_of_items_by_items() -> None:
    rows = Ragged.from_lists([[0, 1], [1, 2]])
    for model, most in ((GFCF(n_factors=8), 1e6), (TurboCF(k=10), 3e6), (TurboCF(k=None), 2e5)):
        built = model.build(Space(n_users=2, n_items=20_000)).fit(Part(rows, 20_000))
        assert sum(buffer.nbytes for buffer in built.buffers()) < most
