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


@pytest.mark.parametrize("backward", [0.0, 0.5])
@pytest.mark.parametrize(("window", "decay", "hops"), [(1, 1.0, 1), (4, 0.6, 3)])
def test_transitions_sum_what_follows_what(
    window: int, backward: float, decay: float, hops: int
) -> None:
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
    expected = np.sum([expected @ np.linalg.matrix_power(table, hop) for hop in range(hops)], 0)
    settings = {"window": window, "backward": backward, "decay": decay, "hops": hops}
    settings |= {"history_power": 0.3, "item_power": 0.4}

    def found(part: Part) -> np.ndarray:
        model = Transitions(**settings).build(Space(n_users=50, n_items=N_ITEMS)).fit(part)
        return model.score(Query(torch.full((20,), -1), Ragged.from_lists(asked))).double().numpy()

    part = Part(Ragged.from_lists(train), N_ITEMS)
    np.testing.assert_allclose(found(part), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found(part), found(part))
    # a user of weights 2 is two users
    weights = torch.tensor([2.0 if user < 10 else 1.0 for user in range(40) for _ in train[user]])
    doubled = Part(Ragged.from_lists([*train, *train[:10]]), N_ITEMS)
    np.testing.assert_allclose(found(replace(part, weights=weights)), found(doubled), rtol=1e-5)
