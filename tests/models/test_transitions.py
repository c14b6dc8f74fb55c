"""Transitions, against sums over pairs of places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.closed_form.transitions import Transitions
from recgraph.sparse.ragged import Ragged

N_ITEMS = 14


def _rows(seed: int, n: int) -> list[list[int]]:
    """Histories with repeats, some empty; the last item is in none."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, N_ITEMS - 1, draw.integers(0, 12)).tolist() for _ in range(n)]


def _scores(model: Transitions, rows: list[list[int]], users: list[int]) -> np.ndarray:
    return model.score(Query(torch.tensor(users), Ragged.from_lists(rows))).double().numpy()


@pytest.mark.parametrize("backward", [0.0, 0.5])
@pytest.mark.parametrize(("window", "decay"), [(1, 1.0), (4, 0.6)])
def test_transitions_sum_what_follows_what(window: int, backward: float, decay: float) -> None:
    train, asked = _rows(0, 40), _rows(1, 20)
    c = np.zeros((N_ITEMS, N_ITEMS))
    for row in train:
        for a, b in np.ndindex(len(row), len(row)):
            if 0 < abs(a - b) <= window:
                c[row[a], row[b]] += (1 if b > a else backward) / abs(a - b)
    sums = [np.where(c.sum(axis) > 0, c.sum(axis), 1) for axis in (1, 0)]
    table = c / sums[0][:, None] ** 0.3 / sums[1] ** 0.4
    expected = np.zeros((len(asked), N_ITEMS))
    for row, scores in zip(asked, expected, strict=True):
        for age, item in enumerate(reversed(row)):
            scores += decay**age * table[item]
    settings = {"window": window, "backward": backward, "decay": decay, "history_power": 0.3, "item_power": 0.4}
    part = Part(Ragged.from_lists(train), N_ITEMS)
    made = [Transitions(**settings).build(Space(n_users=40, n_items=N_ITEMS)).fit(part) for _ in range(2)]
    found, again = (_scores(model, asked, [-1] * 20) for model in made)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, again)
    # a user of weights 2 is two users
    weights = torch.tensor([2.0 if user < 10 else 1.0 for user in range(40) for _ in train[user]])
    weighted = Transitions(**settings).build(Space(n_users=40, n_items=N_ITEMS)).fit(replace(part, weights=weights))
    double = Transitions(**settings).build(Space(n_users=50, n_items=N_ITEMS))
    double.fit(Part(Ragged.from_lists([*train, *train[:10]]), N_ITEMS))
    np.testing.assert_allclose(_scores(weighted, asked, [-1] * 20), _scores(double, asked, [-1] * 20), rtol=1e-5)
