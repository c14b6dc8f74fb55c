"""SimpleX against its equations, its rankings by cosine, and the loss of cosines in other models."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, made, planted
from torch import Tensor

from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.collaborative.base import CollaborativeModel
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
        history = [each for each in histories[int(user)] if not model.config.exclude_target or each != int(item)]
        vector = g * own + (1 - g) * history_part(model, own, history)

        def cosine(index: Tensor, vector: Tensor = vector) -> Tensor:
            return F.cosine_similarity(vector, table[SPACE.n_users + index], dim=0)

        hinge = [F.relu(cosine(negative) - OPTIONS["margin"]) for negative in negatives]
        total = total + 1 - cosine(item) + OPTIONS["negative_weight"] * sum(hinge) / len(hinge)
    return total / len(batch.users)


@pytest.mark.parametrize("more", [{}, {"history_table": True}, {"history_table": True, "exclude_target": True}])
def test_the_loss_is_that_of_the_paper(more: dict[str, bool]) -> None:
    settings = {"aggregator": "user_attention", "own_weight": 0.7, "dropout": 0.0}
    model = made("simplex", loss={"n_negatives": 6, **OPTIONS}, **settings, **more).double()
    batch = first_batch(model)
    value, expected = model(batch, ["rec"])["rec"], oracle(model, batch, 0.7)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    parameters = [one for _, one in sorted(model.named_parameters())]
    for ours, theirs in zip(
        torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("history_table", [False, True])
def test_users_are_ranked_for_by_the_cosine_of_what_the_query_holds(history_table: bool) -> None:
    model = made("simplex", aggregator="user_attention", own_weight=0.6, history_table=history_table).double()
    model.setup(planted()[0])
    model.eval()
    users, histories = [4, 4, -1], [[2, 9], [1], [5, 6, 7]]
    with torch.no_grad():
        scores = model.score(Query(torch.tensor(users), Ragged.from_lists(histories)))
        items = F.normalize(model.embedding.weight[SPACE.n_users :], dim=1)
        for user, history, found in zip(users, histories, scores, strict=True):
            own = model.embedding.weight[user] if user >= 0 else torch.zeros(16, dtype=torch.float64)
            vector = 0.6 * own + 0.4 * history_part(model, own, history)
            torch.testing.assert_close(found, items @ vector, rtol=1e-11, atol=1e-12)
            assert bool((F.normalize(found, dim=0).abs() <= 1).all())
        # neither known nor with a history: the mean of the trained users' own vectors
        lost = model.encode_users(Query(torch.tensor([-1]), Ragged.from_lists([[]])))[0]
    torch.testing.assert_close(lost, model.embedding.weight[: SPACE.n_users].mean(0).detach())


@pytest.mark.parametrize(
    "given", [{"loss": {"n_negatives": 4}}, {"loss": "full_softmax"}, {"loss": {"name": "bpr", "n_negatives": 2}}]
)
def test_without_the_history_it_is_matrix_factorisation(given: dict[str, object]) -> None:
    model, plain = (made(name, **given) for name in ("simplex", "bprmf"))
    model = made("simplex", own_weight=1.0, dropout=0.0, **given)
    model.load_state_dict(plain.state_dict(), strict=False)
    batch = first_batch(plain)
    first_batch(model)
    batch.generators.fresh("negatives")
    if given["loss"] != "full_softmax":
        assert torch.equal(first_batch(model).negatives, batch.negatives)
    torch.testing.assert_close(model(batch, ["rec"])["rec"], plain(batch, ["rec"])["rec"])
    query = Query(torch.arange(SPACE.n_users), planted()[0].items)
    torch.testing.assert_close(model.eval().score(query), plain.eval().score(query))


def test_a_history_of_the_target_alone_is_an_empty_one() -> None:
    model = made("simplex", exclude_target=True, dropout=0.0, own_weight=0.5, aggregator="user_attention")
    part = Part(Ragged.from_lists([[2], [4, 5], [3, 4]]), 8)
    built = type(model)(model.config).build(Space(n_users=3, n_items=8), 0)
    batch = next(built.batches(part, 5, Generators(0)).epoch(0))
    local, nodes = built.nodes_of(batch)
    (alone,) = (batch.users == 0).nonzero()[0].tolist()
    torch.testing.assert_close(nodes[local.users][alone], 0.5 * built.embedding.weight[0])
    built(batch, ["rec"])["rec"].backward()
    assert all(bool(one.grad.isfinite().all()) for one in built.parameters() if one.grad is not None)
