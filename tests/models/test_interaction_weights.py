"""What the weights of interactions do: in every model, against doubled users, and against dense
oracles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from every_model import RECOMMENDERS, SPACE, part
from refusing import refused
from test_runs_of_models import fitted, log

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, Space, TrainableModel
from recgraph.models.closed_form.graph_filters import BSPM, GFCF, TurboCF
from recgraph.models.closed_form.ials import IALS
from recgraph.models.closed_form.linear import EASE, SLIM
from recgraph.models.closed_form.neighbours import ItemKNN, Popularity, RP3beta
from recgraph.models.closed_form.transitions import Transitions
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

N_ITEMS = 12
Matrix = npt.NDArray[np.float64]


def _scores(name: str, weights: Callable[[int], Matrix] | None) -> Matrix:
    data = log(weights=weights)
    model, part = fitted(name, data, epochs=1).model, data.split().train
    with torch.no_grad():
        scores: Matrix = model.score(Query(torch.arange(part.n_users), part.items)).numpy()
    return scores


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_weights_act_or_are_refused(name: str) -> None:
    drawn = np.random.default_rng(1).exponential
    if not registry.load("model", name).reads_weights:
        with refused("weight"):
            _scores(name, lambda n: drawn(size=n))
        return
    without = _scores(name, None)
    np.testing.assert_allclose(_scores(name, np.ones), without, rtol=1e-4, atol=1e-6)
    assert not np.allclose(_scores(name, lambda n: drawn(size=n)), without, rtol=1e-3, atol=1e-5)


def test_a_model_that_reads_none_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Popularity, "reads_weights", False)
    with refused("weight"):
        _scores("popularity", np.ones)


@pytest.mark.parametrize(
    ("name", "settings"), [("sasrec", {}), ("sasrec", {"regime": "prefix"}), ("bert4rec", {})]
)
def test_weights_are_of_the_targets_of_a_batch(name: str, settings: dict[str, Any]) -> None:
    """Of a log whose weights are the tokens; with windows."""
    train = part()
    weights = 1.0 + train.items.values.double()
    model = registry.load("model", name)(max_len=4, **settings).build(SPACE)
    assert isinstance(model, TrainableModel)
    for batch in model.batches(replace(train, weights=weights), 5, Generators(0)).epoch(0):
        torch.testing.assert_close(
            batch.target_weights * weights.mean().float(), batch.targets.float()
        )


@pytest.mark.parametrize("name", ["lightgcn", "sgl"])
def test_a_graph_with_weights(name: str, tmp_path: Path) -> None:
    data, asked = (
        log(weights=lambda n: np.random.default_rng(1).integers(0, 4, n)),
        {"users": [0, 3], "k": 4},
    )
    run = fitted(name, data, tmp_path / "run", epochs=1)
    model, (rows, weights) = run.model, (data.split().train.items, data.split().train.weights)
    whole = torch.zeros(rows.n_rows + 15, rows.n_rows + 15)
    whole[rows.rows, rows.n_rows + rows.values] = whole[rows.n_rows + rows.values, rows.rows] = (
        weights.float()
    )
    root = whole.sum(1).clamp(min=1).sqrt()
    torch.testing.assert_close(model.encoder.adjacency().to_dense(), whole / root[:, None] / root)
    # what is saved ranks as what was fitted
    assert rg.load(tmp_path / "run").recommend(**asked).equals(run.recommend(**asked))
    # a user's row of the graph, read item by item
    query = Query(torch.tensor([3]), Ragged.from_lists([rows.filter(weights > 0).row(3).tolist()]))
    reading = model.reading(query)
    with torch.no_grad():
        by_items = reading.represent(torch.ones(1, len(reading.items), dtype=torch.bool))
        torch.testing.assert_close(by_items, model.encode_users(query))
        torch.testing.assert_close(reading.of_inputs(reading.inputs()[None]), by_items)


def _fit(
    model: ClosedFormModel, rows: list[list[int]], weights: list[list[float]] | None = None
) -> Matrix:
    """The scores of every single item as a history."""
    of_log = None if weights is None else torch.from_numpy(np.concatenate(weights))
    model.build(Space(n_users=len(rows), n_items=N_ITEMS)).fit(
        Part(Ragged.from_lists(rows), N_ITEMS, of_log)
    )
    each = Ragged.from_lists([[item] for item in range(N_ITEMS)])
    scores: Matrix = model.score(Query(torch.full((N_ITEMS,), -1), each)).double().numpy()
    return scores


@pytest.mark.parametrize(
    "model",
    [
        Popularity(),
        ItemKNN(k=5, shrink=2.0),
        EASE(l2=3.0),
        SLIM(l1=0.5, l2=1.0, tol=1e-9),
        GFCF(n_factors=3),
        BSPM(n_factors=3),
        TurboCF(),
        TurboCF(k=5),
        Transitions(),
        RP3beta(k=5),
    ],
    ids=lambda model: model.key(),
)
def test_a_user_of_weights_2_is_two_users(model: ClosedFormModel) -> None:
    draw = np.random.default_rng(3)
    rows = [draw.permutation(N_ITEMS - 1)[: draw.integers(1, 8)].tolist() for _ in range(30)]
    n = len(rows)
    expected = _fit(model, [*rows, *rows[:10]])
    made = _fit(
        type(model)(model.config),
        rows,
        [[2.0 if user < 10 else 1.0] * len(rows[user]) for user in range(n)],
    )
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-7)
    if isinstance(model, Transitions):  # which reads places
        return
    # weights of an interaction that is there twice are summed, and one of weight 0 is none
    again = [[*row, *row, N_ITEMS - 1] for row in rows]
    halves = [[*[1.0 if user < 10 else 0.5] * 2 * len(rows[user]), 0.0] for user in range(n)]
    np.testing.assert_allclose(
        _fit(type(model)(model.config), again, halves), expected, rtol=1e-5, atol=1e-7
    )


def test_confidences_of_ials() -> None:
    draw = np.random.default_rng(3)
    w = np.where(draw.random((30, N_ITEMS)) < 0.4, 4 * draw.random((30, N_ITEMS)), 0)
    model = IALS(hidden_dim=4, confidence=3.0, l2=0.7, frequency_power=1.0, n_iterations=2)
    model.build(Space(n_users=30, n_items=N_ITEMS)).double()
    y = model._start().numpy()
    part = Part(
        Ragged.from_lists([np.flatnonzero(row).tolist() for row in w]),
        N_ITEMS,
        torch.from_numpy(w[w > 0]),
    )
    c, eye = 1 + 3.0 * w, np.eye(4)
    scale = np.concatenate([c.sum(1), c.sum(0)]).mean()

    def solved(table: Matrix, of: Matrix) -> Matrix:
        l2 = 0.7 * of.sum(1) / scale
        normal = [(table.T * row) @ table + by * eye for row, by in zip(of, l2, strict=True)]
        return np.stack(
            [
                np.linalg.solve(a, table.T @ (row * (row > 1)))
                for a, row in zip(normal, of, strict=True)
            ]
        )

    for _ in range(2):
        x = solved(y, c)
        y = solved(x, c.T)
    np.testing.assert_allclose(model.fit(part).item_vectors.numpy(), y, rtol=1e-7, atol=1e-9)
