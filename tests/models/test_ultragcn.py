"""UltraGCN's weights and terms against loops over the paper's equations in float64."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
from collaborative_cases import SPACE, first_batch, made, planted

from recgraph.models.collaborative.ultragcn import degrees_of, neighbours_of
from recgraph.sparse.ragged import Ragged

#: the second user has one item twice, the last has none
ROWS = [[0, 1, 2], [1, 3, 3], [2], [0, 2, 3], []]
N_ITEMS = 6
LIKE = torch.zeros((), dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def test_weights_of_pairs() -> None:
    degrees = degrees_of(Ragged.from_lists(ROWS), N_ITEMS, LIKE)
    sets = [set(row) for row in ROWS]
    users, items = torch.arange(len(ROWS) - 1), torch.arange(N_ITEMS)
    found = degrees.users[users, None] * degrees.items[items]
    for u, i in product(range(len(ROWS) - 1), range(N_ITEMS)):
        d_u, d_i = len(sets[u]), sum(i in one for one in sets)
        assert float(found[u, i]) == pytest.approx(math.sqrt((d_u + 1) / (d_i + 1)) / d_u, rel=1e-14)
    assert float(degrees.users[-1]) == 0


@pytest.mark.parametrize("with_itself", [True, False])
def test_neighbours_of_items(with_itself: bool) -> None:
    counts: Counter[tuple[int, int]] = Counter()
    for row in map(set, ROWS):
        counts.update((i, j) for i, j in product(row, row) if with_itself or i != j)
    g = [sum(counts[i, j] for j in range(N_ITEMS)) for i in range(N_ITEMS)]
    found = neighbours_of(Ragged.from_lists(ROWS), N_ITEMS, 2, LIKE, with_itself)
    for i in range(N_ITEMS):
        every = {
            j: counts[i, j] * math.sqrt(g[i] + 1) / (g[i] * math.sqrt(g[j] + 1)) for j in range(N_ITEMS) if counts[i, j]
        }
        best = sorted(every.values(), reverse=True)[:2] + [0.0] * 2
        for place in range(2):
            weight = float(found.weights[i, place])
            assert weight == pytest.approx(best[place], rel=1e-6)  # held in float32 on the way
            assert weight == 0 or weight == pytest.approx(every[int(found.items[i, place])], rel=1e-6)


def test_terms_are_those_of_the_paper() -> None:
    positive, negative = (0.01, 1.5), (0.3, 0.7)
    settings = {"loss": {"n_negatives": 5}, "n_neighbours": 3, "neighbour_weight": 0.2}
    model = made("ultragcn", positive_weights=positive, negative_weights=negative, **settings).double()
    batch = first_batch(model)
    model.setup(planted()[0])  # in float64
    histories = [set(row) for row in planted()[0].items.to_lists()]
    d_i = Counter(i for one in histories for i in one)
    users, items = torch.split(model.embedding.weight.detach(), [SPACE.n_users, SPACE.n_items])
    rec = near = 0.0
    for u, i, drawn in zip(batch.users.tolist(), batch.items.tolist(), batch.negatives.tolist(), strict=True):
        d_u = len(histories[u])

        def weight(j: int, of: tuple[float, float], d_u: int = d_u) -> float:
            return of[0] + of[1] * math.sqrt((d_u + 1) / (d_i[j] + 1)) / d_u

        rec += weight(i, positive) * softplus(-float(users[u] @ items[i]))
        rec += sum(30 / 5 * weight(j, negative) * softplus(float(users[u] @ items[j])) for j in drawn)
        near += sum(
            float(w) * softplus(-float(users[u] @ items[k]))
            for k, w in zip(model._neighbours.items[i], model._neighbours.weights[i], strict=True)
        )
    found = model(batch, ["rec", "neighbours"])
    assert float(found["rec"].detach()) == pytest.approx(rec / len(batch.users), rel=1e-6)  # weights are float32's
    assert float(found["neighbours"].detach()) == pytest.approx(near / len(batch.users), rel=1e-6)
    assert model.phases[0].terms["neighbours"] == 0.2
    for term in ("rec", "neighbours"):
        (grad,) = torch.autograd.grad(found[term], model.embedding.weight)
        step = torch.zeros_like(grad)
        step[3, 2] = 1e-6
        with torch.no_grad():
            model.embedding.weight.add_(step)
            after = model(batch, [term])[term]
            model.embedding.weight.sub_(2 * step)
            before = model(batch, [term])[term]
            model.embedding.weight.add_(step)
        assert float((after - before) / 2e-6) == pytest.approx(float(grad[3, 2]), rel=1e-4, abs=1e-10)


def test_a_part_of_its_weights_is_plain_cross_entropy() -> None:
    even = {"positive_weights": (1.0, 0.0), "negative_weights": (1.0, 0.0), "neighbour_weight": 0.0}
    model = made("ultragcn", loss={"n_negatives": 4, "negative_weight": 4.0}, **even)
    plain = made("bprmf", loss={"name": "bce", "n_negatives": 4})
    batch = first_batch(plain)
    first_batch(model)
    torch.testing.assert_close(model(batch, ["rec"])["rec"], 5 * plain(batch, ["rec"])["rec"])
