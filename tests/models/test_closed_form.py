"""Closed-form models against dense numpy, and against the recorded numbers on real data."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from refusing import refused

from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, Space
from recgraph.models.closed_form import graph_filters
from recgraph.models.closed_form.graph_filters import BSPM, GFCF, TurboCF
from recgraph.models.closed_form.ials import IALS
from recgraph.models.closed_form.linear import EASE, SLIM
from recgraph.models.closed_form.neighbours import ItemKNN, Popularity, RP3beta
from recgraph.sparse.ragged import Ragged

N_ITEMS = 17
Matrix = npt.NDArray[np.float64]


def _lists(seed: int, n_rows: int) -> list[list[int]]:
    """Histories with repeats, some empty; the last item is in none."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, N_ITEMS - 1, draw.integers(0, 12)).tolist() for _ in range(n_rows)]


def _dense(lists: list[list[int]], n_items: int = N_ITEMS) -> Matrix:
    x = np.zeros((len(lists), n_items))
    for row, items in enumerate(lists):
        x[row, items] = 1
    return x


def _fitted(
    model: ClosedFormModel, lists: list[list[int]], device: torch.device
) -> ClosedFormModel:
    built = model.build(Space(n_users=len(lists), n_items=N_ITEMS)).to(device)
    return built.fit(Part(Ragged.from_lists(lists), N_ITEMS))


def _scores(
    model: ClosedFormModel, lists: list[list[int]], device: torch.device | str = "cpu"
) -> Matrix:
    query = Query(torch.full((len(lists),), -1), Ragged.from_lists(lists)).to(device)
    scores: Matrix = model.score(query).cpu().double().numpy()
    return scores


def ease_weights(x: Matrix, l2: float) -> Matrix:
    """Each column by its own ridge regression on the other columns."""
    n = x.shape[1]
    weights = np.zeros((n, n))
    for j in range(n):
        others = np.delete(np.arange(n), j)
        gram = x[:, others].T @ x[:, others] + l2 * np.eye(n - 1)
        weights[others, j] = np.linalg.solve(gram, x[:, others].T @ x[:, j])
    return weights


def slim_weights(x: Matrix, l1: float, l2: float) -> Matrix:
    """Each column by a dense elastic net on all others, solved far beyond the model's tolerance."""
    from sklearn.linear_model import ElasticNet

    n_users, n = x.shape
    weights = np.zeros((n, n))
    for j in range(n):
        others = x.copy()
        others[:, j] = 0
        net = ElasticNet(
            alpha=(l1 + l2) / n_users,
            l1_ratio=l1 / (l1 + l2),
            positive=True,
            fit_intercept=False,
            max_iter=10**5,
            tol=1e-14,
        )
        weights[:, j] = net.fit(others, x[:, j]).coef_
        weights[j, j] = 0
    return weights


def ials_vectors(x: Matrix, y: Matrix, steps: int, alpha: float, l2: float, nu: float) -> Matrix:
    """Item vectors after so many iterations: every user and item by its dense weighted ridge
    regression.
    """
    confidence = 1 + alpha * x
    of_users, of_items = confidence.sum(1) ** nu, confidence[x.any(1)].sum(0) ** nu
    mean = np.concatenate([of_users[x.any(1)], of_items]).mean()
    for _ in range(steps):
        users = np.stack(
            [_ridge(y, confidence[u], x[u], l2 * of_users[u] / mean) for u in range(len(x))]
        )
        y = np.stack(
            [
                _ridge(users, confidence[:, i], x[:, i], l2 * of_items[i] / mean)
                for i in range(x.shape[1])
            ]
        )
    return y


def _ridge(table: Matrix, confidence: Matrix, wanted: Matrix, l2: float) -> Matrix:
    normal = table.T @ (confidence[:, None] * table) + l2 * np.eye(table.shape[1])
    return np.linalg.solve(normal, table.T @ (confidence * wanted))


def knn_weights(x: Matrix, k: int, shrink: float) -> Matrix:
    """Column c holds the similarities of item c to its k nearest items."""
    norms = np.sqrt(x.sum(0))
    similarity = x.T @ x / np.maximum(np.outer(norms, norms) + shrink, 1e-12)
    np.fill_diagonal(similarity, 0)
    weights = np.zeros_like(similarity)
    for c in range(x.shape[1]):
        best = np.argsort(-similarity[:, c], kind="stable")[:k]
        weights[best, c] = similarity[best, c]
    return weights


def test_popularity_counts_users(device: torch.device) -> None:
    lists = _lists(1, 40)
    made = _scores(_fitted(Popularity(), lists, device), [[], [3]], device)
    np.testing.assert_array_equal(made, np.tile(_dense(lists).sum(0), (2, 1)))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.6), (0.7, 0.0)])
def test_rp3beta_walks_three_steps(alpha: float, beta: float, device: torch.device) -> None:
    lists, histories, x = _lists(1, 40), _lists(2, 9), _dense(_lists(1, 40))
    of_users, of_items = (np.maximum(x.sum(axis), 1) for axis in (1, 0))
    walks = (x.T / of_items[:, None]) ** alpha @ (x / of_users[:, None]) ** alpha / of_items**beta
    np.fill_diagonal(walks, 0)
    made = _scores(
        _fitted(RP3beta(alpha=alpha, beta=beta, k=N_ITEMS), lists, device), histories, device
    )
    np.testing.assert_allclose(made, _dense(histories) @ walks, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("l2", [0.5, 100.0])
def test_ease_solves_its_regressions(l2: float, device: torch.device) -> None:
    lists, histories = _lists(1, 40), _lists(2, 9)
    made = _scores(_fitted(EASE(l2=l2), lists, device), histories, device)
    np.testing.assert_allclose(
        made, _dense(histories) @ ease_weights(_dense(lists), l2), rtol=1e-5, atol=1e-6
    )


def _log_of(n_items: int, n_users: int) -> Part:
    """Users with up to 30 items, popular ones more often."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 30, n_users)
    values = (n_items * draw.random(lengths.sum()) ** 2).astype(np.int64)
    return Part(Ragged.from_lengths(torch.from_numpy(values), torch.from_numpy(lengths)), n_items)


def test_ease_in_float32_is_that_of_float64_to_rounding(recwarn: pytest.WarningsRecorder) -> None:
    part, space = _log_of(700, 900), Space(n_users=900, n_items=700)
    wide = EASE(l2=30.0, solve_in="float64").build(space).fit(part).weights
    narrow = EASE(l2=30.0, solve_in="float32").build(space).fit(part).weights
    assert not recwarn
    assert not torch.equal(narrow, wide)
    torch.testing.assert_close(narrow, wide, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", [EASE(), ItemKNN(k=100_000)], ids=lambda model: model.key())
def test_what_no_memory_holds_is_refused(model: ClosedFormModel) -> None:
    with refused("n_items"):
        model.build(Space(n_users=1, n_items=10_000_000))


@pytest.mark.parametrize(("solve_in", "bytes_a_pair"), [("float32", 4), ("float64", 12)])
def test_ease_counts_its_matrix_once(
    solve_in: str, bytes_a_pair: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has taken is no longer free: it fits into a memory of just what it takes, and into no
    smaller one.
    """
    part, space = _log_of(300, 200), Space(n_users=200, n_items=300)
    for short in (0, 1):
        model, room = EASE(solve_in=solve_in), bytes_a_pair * 300**2 - short

        def memory(model: EASE = model, room: int = room) -> SimpleNamespace:
            return SimpleNamespace(available=room - 4 * 300**2 * len(model.state_dict()))

        monkeypatch.setattr("psutil.virtual_memory", memory)
        with refused("n_items") if short else nullcontext():
            model.build(space).fit(part)


@pytest.mark.parametrize(("l1", "l2"), [(0.1, 0.5), (1.0, 3.0), (2.5, 0.0)])
def test_slim_solves_its_elastic_nets(l1: float, l2: float, device: torch.device) -> None:
    lists, histories = _lists(1, 40), _lists(2, 9)
    fitted = _fitted(SLIM(l1=l1, l2=l2, tol=1e-12, max_iter=10_000), lists, device)
    expected = slim_weights(_dense(lists), l1, l2)
    assert 0 < (expected > 0).sum() < expected.size / 2
    made = _scores(fitted, [[j] for j in range(N_ITEMS)], device)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        _scores(fitted, histories, device), _dense(histories) @ expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_ials_solves_its_normal_equations(nu: float, device: torch.device) -> None:
    lists, histories = _lists(1, 40), _lists(2, 9)
    x, alpha, l2 = _dense(lists), 7.0, 0.8
    model = IALS(hidden_dim=5, confidence=alpha, l2=l2, frequency_power=nu, n_iterations=3)
    # the models' own start, in float64 throughout
    start = IALS(model.config).build(Space(n_users=40, n_items=N_ITEMS)).double()._start().numpy()
    model.build(Space(n_users=40, n_items=N_ITEMS)).to(device).double().fit(
        Part(Ragged.from_lists(lists), N_ITEMS)
    )
    expected = ials_vectors(x, start, 3, alpha, l2, nu)
    np.testing.assert_allclose(model.item_vectors.cpu().numpy(), expected, rtol=1e-6, atol=1e-9)
    of_histories = _dense(histories)
    scale = (1 + alpha * of_histories).sum(1) ** nu / float(model.mean_scale)
    users = np.stack(
        [
            _ridge(expected, 1 + alpha * row, row, l2 * by)
            for row, by in zip(of_histories, scale, strict=True)
        ]
    )
    np.testing.assert_allclose(
        _scores(model, histories, device), users @ expected.T, rtol=1e-6, atol=1e-9
    )


def test_item_knn_as_a_weighted_mean() -> None:
    lists, histories = _lists(1, 40), _lists(2, 9)
    weights = knn_weights(_dense(lists), N_ITEMS, 2.0)
    sums = weights.sum(0)
    expected = _dense(histories) @ np.divide(
        weights, sums, out=np.zeros_like(weights), where=sums > 0
    )
    made = _scores(
        _fitted(ItemKNN(k=N_ITEMS, shrink=2.0, normalise=True), lists, torch.device("cpu")),
        histories,
    )
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-7)
    assert made.max() <= 1 + 1e-6


def test_item_knn_keeps_the_nearest_of_each_scored_item() -> None:
    lists = _lists(1, 40)
    # every single item as a history: the whole table. Ties at the border may fall either way.
    fitted = _fitted(ItemKNN(k=3, shrink=1.0), lists, torch.device("cpu"))
    made = _scores(fitted, [[j] for j in range(N_ITEMS)])
    expected = knn_weights(_dense(lists), 3, 1.0)
    assert (made > 0).sum(0).max() <= 3
    np.testing.assert_allclose(np.sort(made, axis=0), np.sort(expected, axis=0), rtol=1e-5)
    whole = knn_weights(_dense(lists), N_ITEMS, 1.0)
    np.testing.assert_allclose(made[made > 0], whole[made > 0], rtol=1e-5)


@pytest.mark.parametrize("model", [Popularity, ItemKNN, EASE, SLIM, IALS])
def test_fit_again_forgets_and_another_catalogue_is_refused(model: type[ClosedFormModel]) -> None:
    lists, device = _lists(1, 40), torch.device("cpu")
    once, twice = _fitted(model(), lists, device), _fitted(model(), _lists(3, 60), device)
    twice.fit(Part(Ragged.from_lists(lists), N_ITEMS))
    np.testing.assert_array_equal(_scores(once, lists), _scores(twice, lists))
    with refused("n_items"):
        once.fit(Part(Ragged.from_lists([[1]]), 5))


# --- recorded numbers


@pytest.fixture(scope="module")
def ml_100k(shared: Path) -> list[list[int]]:
    """Each user's items, by time and then in the file's order."""
    raw = np.loadtxt(shared / "data" / "ml-100k" / "ml-100k.inter", skiprows=1)
    raw = raw[np.argsort(raw[:, 3], kind="stable")]
    users, items = (np.unique(raw[:, column], return_inverse=True)[1] for column in (0, 1))
    order = np.argsort(users, kind="stable")
    return [part.tolist() for part in np.split(items[order], np.cumsum(np.bincount(users))[:-1])]


def hr_ndcg(scores: Matrix, seen: list[list[int]], truth: list[int]) -> tuple[float, float]:
    """HR@10 and NDCG@10 with seen items excluded and ties in the item's favour to lower indices."""
    hits = gains = 0.0
    for row, (items, item) in enumerate(zip(seen, truth, strict=True)):
        score = scores[row].copy()
        score[items] = -np.inf
        rank = (score > score[item]).sum() + (score[:item] == score[item]).sum()
        hits += rank < 10
        gains += (rank < 10) / np.log2(rank + 2)
    return hits / len(truth), gains / len(truth)


@pytest.mark.parametrize(
    ("model", "history", "expected"),
    [
        (Popularity(), "train", (0.0848, 0.0446)),
        (ItemKNN(), "train", (0.1156, 0.0615)),
        (ItemKNN(), "train+valid", (0.1188, 0.0625)),
        (EASE(), "train", (0.1379, 0.0700)),
        (EASE(), "train+valid", (0.1432, 0.0711)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ClosedFormModel) else None,
)
def test_recorded_numbers_on_ml_100k(
    model: ClosedFormModel, history: str, expected: tuple[float, float], ml_100k: list[list[int]]
) -> None:
    """Fitted on train, seen = train + valid excluded. What others recorded reads train alone at
    test time.
    """
    n_items = 1 + max(max(row) for row in ml_100k)
    train, seen = [row[:-2] for row in ml_100k], [row[:-1] for row in ml_100k]
    fitted = type(model)(model.config).build(Space(n_users=len(train), n_items=n_items))
    fitted.fit(Part(Ragged.from_lists(train), n_items))
    read = train if history == "train" else seen
    made = hr_ndcg(_scores(fitted, read), seen, [row[-1] for row in ml_100k])
    # popular items tie, and one hit is .0011: there the rule for ties decides
    assert made == pytest.approx(expected, abs=0.0012 if isinstance(model, Popularity) else 0.00006)


# GF-CF and Turbo-CF against dense numpy in float64, their memory, and what a bundle keeps of them


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
    made = {
        "linear": p,
        "second": 2 * p - p @ p,
        "third": p + 0.01 * (-p @ p @ p + 10 * p @ p - 29 * p),
    }
    scores: Matrix = x @ made[order]
    return scores


@pytest.mark.parametrize("dense", [512, 0], ids=["dense", "lanczos"])
@pytest.mark.parametrize(("n_factors", "alpha"), [(5, 0.3), (1, 1.0), (0, 0.3), (7, 0.0)])
def test_gfcf_is_the_sum_of_both_filters_and_bspm_sharpens_it(
    n_factors: int, alpha: float, dense: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_filters, "_DENSE", dense)
    monkeypatch.setattr(graph_filters, "_SIGNALS", 4)  # several blocks of users
    train, asked = _lists(0, 30), _lists(1, 11)
    model = _fitted(GFCF(n_factors=n_factors, ideal_weight=alpha), train, device)
    expected = gfcf_scores(_dense(train), _dense(asked), n_factors, alpha)
    np.testing.assert_allclose(_scores(model, asked, device), expected, rtol=2e-5, atol=2e-6)
    # the classical Runge-Kutta step of dr/dt = -r P
    model = _fitted(BSPM(n_factors=n_factors, ideal_weight=alpha, sharpening=2.5), train, device)
    p = gfcf_scores(_dense(train), np.eye(N_ITEMS), 0, 0.0)
    first = -expected @ p
    second = -(expected + 1.25 * first) @ p
    third = -(expected + 1.25 * second) @ p
    last = -(expected + 2.5 * third) @ p
    expected = expected + 2.5 / 6 * (first + 2 * second + 2 * third + last)
    np.testing.assert_allclose(_scores(model, asked, device), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["linear", "second", "third"])
@pytest.mark.parametrize(
    ("alpha", "s", "k"),
    [(0.5, 1.0, N_ITEMS), (0.6, 1.0, None), (0.4, 1.4, 5), (0.6, 0.7, None), (0.4, 1.4, None)],
)
def test_turbo_cf_is_a_polynomial_of_the_graph_of_items(
    order: str, alpha: float, s: float, k: int | None, device: torch.device
) -> None:
    # of an item with ties at its k-th place either may be kept: weights of distinct users make none
    train, asked = _lists(2, 40), _lists(3, 9)
    model = _fitted(TurboCF(user_power=alpha, power=s, filter=order, k=k), train, device)
    expected = turbo_scores(_dense(train), _dense(asked), alpha, s, order, k or N_ITEMS)
    np.testing.assert_allclose(_scores(model, asked, device), expected, rtol=2e-5, atol=2e-6)


def test_no_filter_takes_memory_of_items_by_items() -> None:
    rows = Ragged.from_lists([[0, 1], [1, 2]])
    for model, most in ((GFCF(n_factors=8), 1e6), (TurboCF(), 1e6), (TurboCF(k=10), 3e6)):
        built = model.build(Space(n_users=2, n_items=20_000)).fit(Part(rows, 20_000))
        assert sum(buffer.nbytes for buffer in built.buffers()) < most
