"""LightGCN with a contrastive task: the term, SGL's subgraphs, the noise of SimGCL and XSimGCL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import CONTRASTIVE, SPACE, first_batch, made, planted
from torch import Tensor

from recgraph.contrast.prototypes import Prototypes, prototypes_of
from recgraph.data.batches import PairBatch
from recgraph.encoders.graph import LightGCN as Encoder
from recgraph.models.collaborative.contrastive import SGL, GraphContrastiveModel, SimGCL, XSimGCL
from recgraph.models.collaborative.ncl import NCL
from recgraph.rng import Generators


def _views(model: GraphContrastiveModel, batch: PairBatch) -> tuple[Tensor, Tensor]:
    if isinstance(model, NCL):
        layers = model._layers()
        return layers[model.config.contrast_layer], layers[0]
    return model.views(batch)


@pytest.mark.parametrize("candidates", ["batch", "all"])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_contrastive_term_is_infonce_of_users_and_items(name: str, candidates: str) -> None:
    model = made(name, candidates=candidates, contrast={"temperature": 0.3}).double()
    assert isinstance(model, GraphContrastiveModel)
    batch = first_batch(model)
    value = model(batch, ["cl"])["cl"]
    twin = made(name, candidates=candidates, contrast={"temperature": 0.3}).double()
    assert isinstance(twin, GraphContrastiveModel)
    again = first_batch(twin)
    if isinstance(twin, XSimGCL):
        layers = twin._noisy_layers(again)[1:]
        a, b = torch.stack(layers).mean(0), layers[0]
    else:
        a, b = _views(twin, again)
    expected = torch.zeros((), dtype=torch.float64)
    for start, size, chosen in (
        (0, SPACE.n_users, batch.users),
        (SPACE.n_users, SPACE.n_items, batch.items),
    ):
        chosen = chosen.unique()
        x, y = (F.normalize(view[start : start + size]) for view in (a, b))
        if candidates == "batch":
            expected = expected + F.cross_entropy(
                x[chosen] @ y[chosen].T / 0.3, torch.arange(len(chosen))
            )
        else:
            expected = expected + F.cross_entropy(x[chosen] @ y.T / 0.3, chosen)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def edge_set(encoder: Encoder, adjacency: Any) -> set[tuple[int, int]]:
    upper = adjacency.rows < encoder.n_users
    items = adjacency.indices[upper] - encoder.n_users
    return set(zip(adjacency.rows[upper].tolist(), items.tolist(), strict=True))


@pytest.mark.parametrize("view", ["edge_drop", "node_drop", "random_walk"])
def test_views_of_sgl_are_subgraphs(view: str) -> None:
    drop = "node_drop" if view == "node_drop" else "edge_drop"
    model = made(
        "sgl", each_layer=view == "random_walk", augmentations=[{"name": drop, "ratio": 0.3}]
    )
    assert isinstance(model, SGL)
    batch = first_batch(model)
    encoder, views = model.encoder, model._subgraphs(batch)
    whole = edge_set(encoder, encoder.adjacency())
    assert len(views) == 2
    for layers in views:
        assert len(layers) == encoder.n_layers
        for adjacency in layers:
            kept = edge_set(encoder, adjacency)
            assert kept < whole
            there = adjacency.to_dense()
            torch.testing.assert_close(there, there.T)
            degrees = (there > 0).sum(1)
            root = degrees.clamp(min=1).rsqrt()
            torch.testing.assert_close(there, (there > 0) * root[:, None] * root)
            if view == "node_drop":
                gone = {user for user in range(SPACE.n_users) if not degrees[user]}
                assert len(gone) >= int(0.3 * SPACE.n_users)
                lost = whole - kept
                items = {item for item in range(SPACE.n_items) if not degrees[SPACE.n_users + item]}
                assert all(user in gone or item in items for user, item in lost)
            else:
                assert len(kept) == len(whole) - int(0.3 * len(whole))
        different = len({frozenset(edge_set(encoder, adjacency)) for adjacency in layers})
        assert different == (encoder.n_layers if view == "random_walk" else 1)
    first, second = (edge_set(encoder, layers[0]) for layers in views)
    assert first != second


@pytest.mark.parametrize(("name", "n_layers"), [("simgcl", 1), ("xsimgcl", 2)])
def test_noise_has_its_length_and_stays_in_the_orthant(name: str, n_layers: int) -> None:
    model = made(name, noise=0.25, n_layers=n_layers)
    assert isinstance(model, SimGCL)
    batch = first_batch(model)
    every = model.encoder.layers(model.embedding.weight)[1:]
    clean, noisy = every[0], model._noisy_layers(batch)[1]
    connected = clean.abs().sum(1) > 0
    moved = (noisy - clean)[connected]
    torch.testing.assert_close(moved.norm(dim=1), torch.full((len(moved),), 0.25))
    assert bool((moved * clean[connected] >= 0).all())
    model.eval()
    torch.testing.assert_close(
        model.encode_items(), torch.stack(every).mean(0)[SPACE.n_users :].detach()
    )


# NCL: both of its contrasts beside slow ones from the paper's equations, the clusters of an epoch,
# and other parts


N_USERS, N_ITEMS = SPACE.n_users, SPACE.n_items
CLUSTERED: dict[str, Any] = {
    "prototypes": {"n_clusters": (3, 5), "iterations": 100},
    "warm_up_epochs": 0,
}
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


def info_nce(
    anchors: dict[int, Tensor], candidates: Tensor, own: dict[int, int], tau: float
) -> Tensor:
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
    mean = (
        torch.stack([torch.cat(layer) for layer in every[: n_layers + 1]]).mean(0)
        if n_layers <= k
        else None
    )
    if mean is not None:
        torch.testing.assert_close(model.nodes(), mean)
        scores = [
            mean[:N_USERS][batch.users] * mean[N_USERS:][items]
            for items in (batch.items, batch.negatives[:, 0])
        ]
        expected = F.softplus(scores[1].sum(1) - scores[0].sum(1)).mean()
        torch.testing.assert_close(value(model, "rec", batch), expected)


@pytest.mark.parametrize("n_clusters", [(4,), (3, 5)])
def test_the_semantic_contrast_is_that_of_the_paper(n_clusters: tuple[int, ...]) -> None:
    model = ncl(
        **{**CLUSTERED, "prototypes": {"n_clusters": n_clusters, "iterations": 100}},
        **WARM,
        item_weight=0.4,
    )
    batch, table = first_batch(model), model.embedding.weight
    found = value(model, "proto", batch)
    parts = []
    for kind, of_batch in enumerate((batch.users, batch.items)):
        rows = torch.split(table, [N_USERS, N_ITEMS])[kind]
        directions = F.normalize(rows.detach(), dim=1)
        memory, of_each = model.memories[kind], []
        for t, k in enumerate(n_clusters):
            own = memory.assignments[t].tolist()
            # k-means has ended: centroids are means of their members, and these are nearest to them
            centroids = torch.stack(
                [directions[[own[i] == c for i in range(len(own))]].mean(0) for c in range(k)]
            )
            assert (directions @ centroids.T).argmax(1).tolist() == own
            chosen = sorted(set(of_batch.tolist()))
            of_each.append(
                info_nce({i: rows[i] for i in chosen}, centroids, {i: own[i] for i in chosen}, 0.3)
            )
        parts.append(torch.stack(of_each).mean())
    assert_same(found, parts[0] + 0.4 * parts[1], table)


def test_before_the_warm_up_ends_there_are_no_clusters() -> None:
    model = ncl(**{**CLUSTERED, "warm_up_epochs": 2})
    for epoch in (0, 1):
        terms = model(first_batch(model, epoch=epoch), list(model.phases[0].terms))
        assert not terms["proto"]
        assert [int(memory.epoch) for memory in model.memories] == [-1, -1]
    assert value(model, "proto", first_batch(model, epoch=2)) > 0
    assert [int(memory.epoch) for memory in model.memories] == [2, 2]


def test_clusters_are_of_the_vectors_in_the_first_step_of_each_epoch() -> None:
    model = ncl(**CLUSTERED)
    batches = model.batches(planted()[0], 32, Generators(5))

    def directions() -> list[Tensor]:
        return [memory.directions_0.clone() for memory in model.memories]

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
            wanted = prototypes_of(
                Prototypes(n_clusters=(3, 5), iterations=100, restarts=1)(x), x, 1.0
            )
            assert torch.equal(
                model.memories[kind].assignments, torch.stack([one.assignments for one in wanted])
            )
            torch.testing.assert_close(directions()[kind], wanted[0].directions)
    assert not torch.allclose(seen[0][0], seen[1][0])
    # another training begins without them
    model.batches(planted()[0], 32, Generators(5))
    assert [int(memory.epoch) for memory in model.memories] == [-1, -1]
