"""The prior of transitions in sequence models, against sums over pairs of places."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import recgraph as rg
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.prior import OfBatch, Prior
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

N_ITEMS = 12
PRIOR = Prior(
    window=3, backward=0.5, history_power=0.0, item_power=0.5, decay=0.6, eps=0.01, weight=0.4, in_training=True
)


def random_part(n_users: int = 30, longest: int = 15) -> Part:
    drawn = torch.Generator().manual_seed(4)
    lengths = torch.randint(0, longest, (n_users,), generator=drawn)
    return Part(Ragged.from_lengths(torch.randint(N_ITEMS, (int(lengths.sum()),), generator=drawn), lengths), N_ITEMS)


def counted(rows: list[list[int]]) -> Tensor:
    found = torch.zeros(N_ITEMS, N_ITEMS, dtype=torch.float64)
    for row in rows:
        for a in range(len(row)):
            for b in range(len(row)):
                if a != b and abs(a - b) <= 3:
                    found[row[a], row[b]] += (1.0 if b > a else 0.5) / abs(a - b)
    return found


def logs(history: list[int], table: Tensor) -> Tensor:
    total = torch.zeros(N_ITEMS, dtype=torch.float64)
    for age, item in enumerate(reversed(history)):
        total += 0.6**age * table[item]
    return torch.log1p(total / 0.01)


@pytest.mark.parametrize("regime", ["causal", "prefix"])
@pytest.mark.parametrize("loss", ["full_softmax", {"name": "full_softmax", "pad_candidate": False}, "sampled_softmax"])
@pytest.mark.parametrize("max_len", [4, 20])
def test_a_target_is_predicted_by_the_transitions_of_all_others(regime: str, loss: Any, max_len: int) -> None:
    part = random_part()
    model = rg.models.SASRec(
        hidden_dim=8,
        max_len=max_len,
        dropout=0.0,
        encoder={"attention_dropout": 0.0},
        regime=regime,
        loss=loss,
        prior=PRIOR,
    )
    model.build(Space(n_users=30, n_items=N_ITEMS), seed=0)
    rows = part.items.to_lists()
    every = counted(rows)
    norms = every.sum(0) ** -0.5
    for batch in model.batches(part, 7, Generators(3)).epoch(0):
        prior = OfBatch(model.prior, batch)
        lists = []
        places = batch.sequences.offsets[1:] - 1 if regime == "prefix" else torch.arange(len(batch.sequences.values))
        places = places if batch.masked is None else batch.masked.values
        for place in places.tolist():
            row = int(batch.sequences.rows[place])
            history = batch.sequences.values[batch.sequences.offsets[row] : place + 1] - 1
            others = every - counted([rows[int(batch.users[row])]])
            lists.append(logs(history.tolist(), others * norms))
        wanted = torch.stack(lists)
        found = prior.over(torch.arange(1, N_ITEMS + 1))
        cut = len(wanted) // 2 + 1
        parts = [found(slice(0, cut))] + ([found(slice(cut, len(wanted)))] if cut < len(wanted) else [])
        torch.testing.assert_close(torch.cat(parts).double(), wanted, atol=5e-3, rtol=2e-3)
        of_targets = wanted.gather(1, batch.targets[:, None] - 1)[:, 0]
        torch.testing.assert_close(prior.at_targets().double(), of_targets, atol=5e-3, rtol=2e-3)
        assert found(slice(0, 1)).shape == (1, N_ITEMS)
        # the loss and its gradients are those of the softmax of the sums
        if loss == "sampled_softmax":
            continue
        value = model(batch, ["rec"])["rec"]
        value.backward()
        table, weight = model.item_embedding.weight, model.prior.weight
        grads = [table.grad.clone(), weight.grad.clone()]
        model.zero_grad()
        states = model.encode(batch.sequences, batch, regime == "prefix", batch.masked)
        first = 1 if isinstance(loss, dict) else 0
        added = torch.cat([torch.zeros(len(wanted), 1 - first), torch.cat(parts)], 1)
        oracle = F.cross_entropy(states @ table[first:].T + weight * added, batch.targets - first)
        oracle.backward()
        torch.testing.assert_close(value, oracle)
        torch.testing.assert_close(grads, [table.grad, weight.grad], atol=1e-5, rtol=1e-4)
        model.zero_grad()


def test_a_sampled_softmax_adds_it_to_what_it_draws() -> None:
    part = random_part()
    model = rg.models.SASRec(hidden_dim=8, max_len=6, dropout=0.0, loss="sampled_softmax", prior=PRIOR)
    model.build(Space(n_users=30, n_items=N_ITEMS), seed=0)
    batch = next(iter(model.batches(part, 50, Generators(3)).epoch(0)))
    prior, drawn = OfBatch(model.prior, batch), torch.tensor([3, 1, 3, 12])
    whole = prior.over(torch.arange(1, N_ITEMS + 1))(slice(0, batch.n_targets))
    torch.testing.assert_close(prior.over(drawn)(slice(0, batch.n_targets)), whole[:, drawn - 1])
    states = torch.randn(batch.n_targets, 8, generator=torch.Generator().manual_seed(1))
    table, weight = model.item_embedding.weight, model.prior.weight
    generator = torch.Generator().manual_seed(2)
    loss = model.loss(states, batch.targets, table, generator.clone_state(), prior=prior)
    count = model.loss.config.n_negatives
    drawn = model.loss.sampler.draw((count,), N_ITEMS, generator, table.device)
    scores = states @ table[drawn].T - math.log(count / N_ITEMS) + weight * whole[:, drawn - 1]
    scores = scores.masked_fill(drawn == batch.targets[:, None], -math.inf)
    own = (states * table[batch.targets]).sum(1) + weight * whole.gather(1, batch.targets[:, None] - 1)[:, 0]
    oracle = (torch.cat([own[:, None], scores], 1).logsumexp(1) - own).mean()
    torch.testing.assert_close(loss, oracle)
    ours, theirs = (torch.autograd.grad(each, [table, weight], retain_graph=True) for each in (loss, oracle))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weight", [None, 4.0])
def test_with_every_transition_seen_once_it_says_nothing_in_training_and_all_in_ranking(weight: float | None) -> None:
    rows = [[3 * user, 3 * user + 1, 3 * user + 2] for user in range(4)]
    part = Part(Ragged.from_lists(rows), N_ITEMS, None if weight is None else torch.full((12,), weight))
    model = rg.models.SASRec(hidden_dim=8, max_len=6, dropout=0.0, prior=PRIOR).build(Space(n_users=4, n_items=N_ITEMS))
    (batch,) = model.batches(part, 10, Generators(3)).epoch(0)
    prior = OfBatch(model.prior, batch)
    assert float(prior.at_targets().max()) < 1e-4
    assert float(prior.over(torch.arange(1, N_ITEMS + 1))(slice(0, 8)).max()) < 1e-4
    model.eval()
    query = Query(torch.tensor([-1]), Ragged.from_lists([[3, 4]]))
    table = counted(rows)
    wanted = model.prior.weight * logs([3, 4], table * table.sum(0) ** -0.5 * (weight or 1.0) ** 0.5)
    added = model.score(query) - model.encode_users(query) @ model.encode_items().T
    torch.testing.assert_close(added[0].double(), wanted.double(), atol=1e-4, rtol=1e-4)
