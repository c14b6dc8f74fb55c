"""NCL: both of its contrasts beside slow ones from the paper's equations, the clusters of an epoch, and other parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, made, planted
from torch import Tensor

from recgraph.contrast.prototypes import Prototypes, proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import PairBatch
from recgraph.models.collaborative.ncl import NCL
from recgraph.rng import Generators

N_USERS, N_ITEMS = SPACE.n_users, SPACE.n_items
CLUSTERED: dict[str, Any] = {"prototypes": {"n_clusters": (3, 5), "iterations": 100}, "warm_up_epochs": 0}
WARM: dict[str, Any] = {"contrast": {"temperature": 0.3}, "proto_contrast": {"temperature": 0.3}}


def ncl(**settings: Any) -> NCL:
    model = made("ncl", **settings)
    assert isinstance(model, NCL)
    return model.double()


def value(model: NCL, name: str, batch: PairBatch | None = None) -> Tensor:
    return model(first_batch(model) if batch is None else batch, [name])[name]


def layers(table: Tensor, k: int) -> list[list[Tensor]]:
    """z^0 ... z^k of users and of items, by sums over neighbours with 1 / sqrt(degree degree)."""
    rows = planted()[0].items.to_lists()
    adjacent = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    for user, items in enumerate(rows):
        for item in items:
            adjacent[user, item] = 1 / math.sqrt(len(items) * sum(item in other for other in rows))
    found = [[table[:N_USERS], table[N_USERS:]]]
    for _ in range(k):
        users, items_ = found[-1]
        found.append([adjacent @ items_, adjacent.T @ users])
    return found


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() / (x.norm() * y.norm())


def info_nce(anchors: dict[int, Tensor], candidates: Tensor, own: dict[int, int], tau: float) -> Tensor:
    """The mean over anchors of -log(e^{s / tau} of the own candidate / the sum over all)."""
    losses = []
    for number, x in anchors.items():
        shares = torch.stack([(cosine(x, y) / tau).exp() for y in candidates])
        losses.append(-(shares[own[number]] / shares.sum()).log())
    return torch.stack(losses).mean()


def assert_same(found: Tensor, expected: Tensor, table: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (of_found,) = torch.autograd.grad(found, table)
    (of_expected,) = torch.autograd.grad(expected, table)
    torch.testing.assert_close(of_found, of_expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("k", "n_layers"), [(2, 3), (2, 1), (4, 2)])
def test_the_structural_contrast_is_that_of_the_paper(k: int, n_layers: int) -> None:
    model = ncl(contrast_layer=k, n_layers=n_layers, **WARM, item_weight=0.4)
    batch, table = first_batch(model), model.embedding.weight
    every, parts = layers(table, k), []
    for kind, of_batch in enumerate((batch.users, batch.items)):
        chosen = sorted(set(of_batch.tolist()))
        anchors = {node: every[k][kind][node] for node in chosen}
        parts.append(info_nce(anchors, every[0][kind], {node: node for node in chosen}, 0.3))
    assert_same(value(model, "cl", batch), parts[0] + 0.4 * parts[1], table)
    # further layers are of the contrast alone
    mean = torch.stack([torch.cat(layer) for layer in every[: n_layers + 1]]).mean(0) if n_layers <= k else None
    if mean is not None:
        torch.testing.assert_close(model.nodes(), mean)
        scores = [mean[:N_USERS][batch.users] * mean[N_USERS:][items] for items in (batch.items, batch.negatives[:, 0])]
        expected = F.softplus(scores[1].sum(1) - scores[0].sum(1)).mean()
        torch.testing.assert_close(value(model, "rec", batch), expected)


@pytest.mark.parametrize("n_clusters", [(4,), (3, 5)])
def test_the_semantic_contrast_is_that_of_the_paper(n_clusters: tuple[int, ...]) -> None:
    model = ncl(**{**CLUSTERED, "prototypes": {"n_clusters": n_clusters, "iterations": 100}}, **WARM, item_weight=0.4)
    batch, table = first_batch(model), model.embedding.weight
    found = value(model, "proto", batch)
    parts = []
    for kind, of_batch in enumerate((batch.users, batch.items)):
        rows = torch.split(table, [N_USERS, N_ITEMS])[kind]
        directions = F.normalize(rows.detach(), dim=1)
        memory, of_each = model._memories()[kind], []
        for t, k in enumerate(n_clusters):
            own = memory.assignments[t].tolist()
            # k-means has ended: centroids are means of their members, and these are nearest to them
            centroids = torch.stack([directions[[own[i] == c for i in range(len(own))]].mean(0) for c in range(k)])
            assert (directions @ centroids.T).argmax(1).tolist() == own
            chosen = sorted(set(of_batch.tolist()))
            of_each.append(info_nce({i: rows[i] for i in chosen}, centroids, {i: own[i] for i in chosen}, 0.3))
        parts.append(torch.stack(of_each).mean())
    assert_same(found, parts[0] + 0.4 * parts[1], table)


def test_before_the_warm_up_ends_there_are_no_clusters() -> None:
    model = ncl(**{**CLUSTERED, "warm_up_epochs": 2})
    for epoch in (0, 1):
        terms = model(first_batch(model, epoch=epoch), list(model.phases[0].terms))
        assert not terms["proto"]
        assert [int(memory.epoch) for memory in model._memories()] == [-1, -1]
    assert value(model, "proto", first_batch(model, epoch=2)) > 0
    assert [int(memory.epoch) for memory in model._memories()] == [2, 2]


def test_clusters_are_of_the_vectors_in_the_first_step_of_each_epoch() -> None:
    model = ncl(**CLUSTERED)
    batches = model.batches(planted()[0], 32, Generators(5))

    def directions() -> list[Tensor]:
        return [memory.directions_0.clone() for memory in model._memories()]

    seen = []
    for epoch in range(2):
        first, second, *_ = batches.epoch(epoch)
        at_start = model.embedding.weight.detach().clone()
        value(model, "proto", first)
        seen.append(directions())
        with torch.no_grad():
            model.embedding.weight.mul_(torch.linspace(-1, 1, 16, dtype=torch.float64))
        value(model, "proto", second)
        for kind, rows in enumerate(torch.split(at_start, [N_USERS, N_ITEMS])):
            x = F.normalize(rows, dim=1)
            wanted = prototypes_of(Prototypes(n_clusters=(3, 5), iterations=100, restarts=1)(x), x, 1.0)
            assert torch.equal(model._memories()[kind].assignments, torch.stack([one.assignments for one in wanted]))
            torch.testing.assert_close(directions()[kind], wanted[0].directions)
    assert not torch.allclose(seen[0][0], seen[1][0])
    # another training begins without them
    model.batches(planted()[0], 32, Generators(5))
    assert [int(memory.epoch) for memory in model._memories()] == [-1, -1]


# --- other parts ------------------------------------------------------------------------------------


def test_the_temperature_of_prototypes_follows_the_density() -> None:
    dense = ncl(**CLUSTERED, concentration=True, **WARM)
    batch = first_batch(dense)
    users, _ = batch.distinct()
    table = dense.embedding.weight[:N_USERS]
    x = F.normalize(table.detach(), dim=1)
    prototypes = prototypes_of(Prototypes(n_clusters=(3, 5), iterations=100, restarts=1)(x), x, 0.3)
    term = ContrastiveTerm(objective="info_nce", similarity="cosine")
    only_users = ncl(**CLUSTERED, concentration=True, **WARM, item_weight=0.0)
    torch.testing.assert_close(value(only_users, "proto", batch), proto_nce(term, table[users], prototypes, users))
    assert not torch.allclose(value(dense, "proto", batch), value(ncl(**CLUSTERED, **WARM), "proto", batch))
