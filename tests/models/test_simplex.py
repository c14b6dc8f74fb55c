"""SimpleX and UltraGCN against their equations; rankings by cosine, weights of pairs, and losses in
other models.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, made, planted
from torch import Tensor

from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.collaborative.lightgcn import degrees_of, neighbours_of
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

OPTIONS = {"margin": 0.1, "negative_weight": 25.0}


def history_part(model: CollaborativeModel, own: Tensor, history: list[int]) -> Tensor:
    """``W sum_i a_i q_i`` with attention by the user's own vector, item by item."""
    items, aggregator = model.embedding.weight[SPACE.n_users :], model.aggregator
    if model.config.history_table:
        items = model.history_embedding.weight
    keys = [torch.tanh(aggregator.key.weight @ items[i] + aggregator.key.bias) for i in history]
    shares = torch.softmax(torch.stack([own @ key for key in keys]), 0)
    return aggregator.out.weight @ sum(a * items[i] for a, i in zip(shares, history, strict=True))


def oracle(model: CollaborativeModel, batch: PairBatch, g: float) -> Tensor:
    table, histories = model.embedding.weight, planted()[0].items.to_lists()
    total = table.new_zeros(())
    for user, item, negatives in zip(batch.users, batch.items, batch.negatives, strict=True):
        own = table[user]
        history = [
            each
            for each in histories[int(user)]
            if not model.config.exclude_target or each != int(item)
        ]
        vector = g * own + (1 - g) * history_part(model, own, history)

        def cosine(index: Tensor, vector: Tensor = vector) -> Tensor:
            return F.cosine_similarity(vector, table[SPACE.n_users + index], dim=0)

        hinge = [F.relu(cosine(negative) - OPTIONS["margin"]) for negative in negatives]
        total = total + 1 - cosine(item) + OPTIONS["negative_weight"] * sum(hinge) / len(hinge)
    return total / len(batch.users)


@pytest.mark.parametrize(
    "more", [{}, {"history_table": True}, {"history_table": True, "exclude_target": True}]
)
def test_the_loss_is_that_of_the_paper(more: dict[str, bool]) -> None:
    settings = {"aggregator": "user_attention", "own_weight": 0.7, "dropout": 0.0}
    model = made("simplex", loss={"n_negatives": 6, **OPTIONS}, **settings, **more).double()
    batch = first_batch(model)
    value, expected = model(batch, ["rec"])["rec"], oracle(model, batch, 0.7)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    parameters = [one for _, one in sorted(model.named_parameters())]
    for ours, theirs in zip(
        torch.autograd.grad(value, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("history_table", [False, True])
def test_users_are_ranked_for_by_the_cosine_of_what_the_query_holds(history_table: bool) -> None:
    model = made(
        "simplex", aggregator="user_attention", own_weight=0.6, history_table=history_table
    ).double()
    model.setup(planted()[0])
    model.eval()
    users, histories = [4, 4, -1], [[2, 9], [1], [5, 6, 7]]
    with torch.no_grad():
        scores = model.score(Query(torch.tensor(users), Ragged.from_lists(histories)))
        items = F.normalize(model.embedding.weight[SPACE.n_users :], dim=1)
        for user, history, found in zip(users, histories, scores, strict=True):
            own = (
                model.embedding.weight[user] if user >= 0 else torch.zeros(16, dtype=torch.float64)
            )
            vector = 0.6 * own + 0.4 * history_part(model, own, history)
            torch.testing.assert_close(found, items @ vector, rtol=1e-11, atol=1e-12)
            assert bool((F.normalize(found, dim=0).abs() <= 1).all())
        # neither known nor with a history: the mean of the trained users' own vectors
        lost = model.encode_users(Query(torch.tensor([-1]), Ragged.from_lists([[]])))[0]
    torch.testing.assert_close(lost, model.embedding.weight[: SPACE.n_users].mean(0).detach())


def test_a_history_of_the_target_alone_is_an_empty_one() -> None:
    model = made(
        "simplex", exclude_target=True, dropout=0.0, own_weight=0.5, aggregator="user_attention"
    )
    part = Part(Ragged.from_lists([[2], [4, 5], [3, 4]]), 8)
    built = type(model)(model.config).build(Space(n_users=3, n_items=8), 0)
    batch = next(built.batches(part, 5, Generators(0)).epoch(0))
    local, nodes = built.nodes_of(batch)
    (alone,) = (batch.users == 0).nonzero()[0].tolist()
    torch.testing.assert_close(nodes[local.users][alone], 0.5 * built.embedding.weight[0])
    built(batch, ["rec"])["rec"].backward()
    assert all(
        bool(one.grad.isfinite().all()) for one in built.parameters() if one.grad is not None
    )


# UltraGCN's weights and terms against loops over the paper's equations in float64


#: the second user has one item twice, the last has none
ROWS = [[0, 1, 2], [1, 3, 3], [2], [0, 2, 3], []]
N_ITEMS = 6
LIKE = torch.zeros((), dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def test_weights_of_pairs() -> None:
    of_users, of_items = degrees_of(Ragged.from_lists(ROWS), N_ITEMS, LIKE)
    sets = [set(row) for row in ROWS]
    users, items = torch.arange(len(ROWS) - 1), torch.arange(N_ITEMS)
    found = of_users[users, None] * of_items[items]
    for u, i in product(range(len(ROWS) - 1), range(N_ITEMS)):
        d_u, d_i = len(sets[u]), sum(i in one for one in sets)
        assert float(found[u, i]) == pytest.approx(
            math.sqrt((d_u + 1) / (d_i + 1)) / d_u, rel=1e-14
        )
    assert float(of_users[-1]) == 0


def test_neighbours_of_items() -> None:
    counts: Counter[tuple[int, int]] = Counter()
    for row in map(set, ROWS):
        counts.update((i, j) for i, j in product(row, row))
    g = [sum(counts[i, j] for j in range(N_ITEMS)) for i in range(N_ITEMS)]
    items, weights = neighbours_of(Ragged.from_lists(ROWS), N_ITEMS, 2, LIKE)
    for i in range(N_ITEMS):
        every = {
            j: counts[i, j] * math.sqrt(g[i] + 1) / (g[i] * math.sqrt(g[j] + 1))
            for j in range(N_ITEMS)
            if counts[i, j]
        }
        best = sorted(every.values(), reverse=True)[:2] + [0.0] * 2
        for place in range(2):
            weight = float(weights[i, place])
            assert weight == pytest.approx(best[place], rel=1e-6)  # held in float32 on the way
            assert weight == 0 or weight == pytest.approx(every[int(items[i, place])], rel=1e-6)


def test_terms_are_those_of_the_paper() -> None:
    settings = {"loss": {"n_negatives": 5}, "n_neighbours": 3, "neighbour_weight": 0.2}
    model = made("ultragcn", **settings).double()
    batch = first_batch(model)
    model.setup(planted()[0])  # in float64
    histories = [set(row) for row in planted()[0].items.to_lists()]
    d_i = Counter(i for one in histories for i in one)
    users, items = torch.split(model.embedding.weight.detach(), [SPACE.n_users, SPACE.n_items])
    rec = near = 0.0
    for u, i, drawn in zip(
        batch.users.tolist(), batch.items.tolist(), batch.negatives.tolist(), strict=True
    ):
        d_u = len(histories[u])

        def weight(j: int, d_u: int = d_u) -> float:
            return 1e-6 + math.sqrt((d_u + 1) / (d_i[j] + 1)) / d_u

        rec += weight(i) * softplus(-float(users[u] @ items[i]))
        rec += sum(30 / 5 * weight(j) * softplus(float(users[u] @ items[j])) for j in drawn)
        near += sum(
            float(w) * softplus(-float(users[u] @ items[k]))
            for k, w in zip(model.neighbours[i], model.neighbour_weights[i], strict=True)
        )
    found = model(batch, ["rec", "neighbours"])
    # weights are float32's
    assert float(found["rec"].detach()) == pytest.approx(rec / len(batch.users), rel=1e-6)
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
        assert float((after - before) / 2e-6) == pytest.approx(
            float(grad[3, 2]), rel=1e-4, abs=1e-10
        )
