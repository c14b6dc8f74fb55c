"""The prior of transitions in sequence models, against sums over pairs of places."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import recgraph as rg
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.prior import Prior
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

N_ITEMS = 12
PRIOR = Prior(
    window=3, backward=0.5, history_power=0.0, item_power=0.5, decay=0.6, eps=0.01, weight=0.4
)


def random_histories(n_users: int = 30, longest: int = 15) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(4)
    lengths = torch.randint(0, longest, (n_users,), generator=drawn)
    return [torch.randint(N_ITEMS, (int(n),), generator=drawn).tolist() for n in lengths]


def counted_pairs(histories: list[list[int]], weight: float) -> Tensor:
    """[N_ITEMS, N_ITEMS] float64: 1 / distance of each pair within the window, half of it for the
    way back.
    """
    counts = torch.zeros(N_ITEMS, N_ITEMS, dtype=torch.float64)
    for history in histories:
        for a in range(len(history)):
            for b in range(len(history)):
                if a != b and abs(a - b) <= 3:
                    way = 1.0 if b > a else 0.5
                    counts[history[a], history[b]] += weight * way / abs(a - b)
    return counts


def log_prior(history: list[int], table: Tensor) -> Tensor:
    """[N_ITEMS] float64: ``log(1 + t_j / eps)``, an item's age in the history in the power of
    .6.
    """
    total = torch.zeros(N_ITEMS, dtype=torch.float64)
    for age, item in enumerate(reversed(history)):
        total += 0.6**age * table[item]
    return torch.log1p(total / 0.01)


@pytest.mark.parametrize("weight", [None, 4.0])
def test_ranking_adds_the_logarithm_of_transitions(weight: float | None) -> None:
    histories = random_histories()
    items = Ragged.from_lists(histories)
    part = Part(
        items, N_ITEMS, None if weight is None else torch.full((len(items.values),), weight)
    )
    model = rg.models.SASRec(hidden_dim=8, max_len=6, dropout=0.0, prior=PRIOR)
    model.build(Space(n_users=len(histories), n_items=N_ITEMS), seed=0).setup(part)
    model.eval()
    requests = [[3, 4], [0], [7, 1, 7, 2, 5]]
    query = Query(torch.full((len(requests),), -1), Ragged.from_lists(requests))
    counts = counted_pairs(histories, weight or 1.0)
    table = counts * counts.sum(0) ** -0.5
    added = model.score(query) - model.encode_users(query) @ model.encode_items().T
    expected = 0.4 * torch.stack([log_prior(history, table) for history in requests])
    torch.testing.assert_close(added.double(), expected, atol=1e-5, rtol=1e-4)
    assert not model.has_vectors


def test_the_loss_is_that_of_a_model_without_a_prior() -> None:
    part = Part(Ragged.from_lists(random_histories()), N_ITEMS)
    space = Space(n_users=30, n_items=N_ITEMS)
    losses = []
    for prior in (None, PRIOR):
        model = rg.models.SASRec(hidden_dim=8, max_len=6, prior=prior).build(space, seed=0)
        batch = next(iter(model.batches(part, 7, Generators(3)).epoch(0)))
        losses.append(float(model(batch, ["rec"])["rec"].detach()))
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])
