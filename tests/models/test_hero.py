"""HERO: the self-expressive matrix, distances, both vectors and losses against matrices of all pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_model import N_PAPERS, graph, of_nodes
from torch import Tensor, nn

from recgraph.config import ConfigError
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphBatch
from recgraph.models.heterogeneous.hero import HERO, far, self_expressed
from recgraph.models.heterogeneous.type_layers import TypeLayer
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr

KINDS = ["dense", "sparse", "identity"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(kind: str, n: int) -> tuple[Tensor | Csr | None, Tensor]:
    """As the model holds them, and dense."""
    dense = torch.eye(n).double() if kind == "identity" else draw(n, 5, seed=3).clamp(min=0)
    return (None if kind == "identity" else Csr.from_dense(dense) if kind == "sparse" else dense), dense


def distances(x: Tensor) -> Tensor:
    found = torch.cdist(x, x).square()
    return found / found.sum(1, keepdim=True) * len(x) ** 0.5


def expressed(h: Tensor, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``S H`` with S made by its definition."""
    n, scale = len(h), (h.T @ h).diagonal().mean()
    eye = torch.eye(n, dtype=h.dtype)
    made: Tensor = torch.linalg.inv(h @ h.T + beta * scale * eye) @ h
    return (h @ h.T - alpha * scale / 2 * distances(x)) @ made


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_never_made(kind: str) -> None:
    x, dense = features(kind, 9)
    b = draw(9, 4, seed=1)
    torch.testing.assert_close(far(x, b), distances(dense) @ b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "width"), [(1, 3), (5, 1), (50, 1), (4000, 3)])
def test_nodes_of_the_same_features_are_far_from_none(n: int, width: int, dtype: torch.dtype) -> None:
    """As all are whose only feature is divided by itself: what sums round is not divided by what they round."""
    b = draw(n, 4, seed=1).to(dtype)
    same = torch.full((n, width), 1 / width, dtype=dtype)
    for x in (same, Csr.from_dense(same)):
        assert float(far(x, b).abs().max()) == 0
    if n == 50:
        same[7] = 2
        torch.testing.assert_close(
            far(same, b), (distances(same.double()) @ b.double()).to(dtype), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_the_self_expressive_matrix(kind: str, alpha: float) -> None:
    x, dense = features(kind, 9)
    h = draw(9, 4, seed=2).requires_grad_()
    got, expected = self_expressed(h, x, alpha, 0.4), expressed(h, dense, alpha, 0.4)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)
    (ours,), (theirs,) = (torch.autograd.grad(v.square().sum(), h) for v in (got, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    # no other matrix costs less
    s = draw(9, 9, seed=5)
    gram, d = h.detach() @ h.detach().T, distances(dense)
    scale = gram.trace() / 4

    def cost(m: Tensor) -> Tensor:
        of_far = alpha * scale * (m * d).sum() + 0.4 * scale * m.square().sum()
        return (h.detach() - m @ h.detach()).square().sum() + of_far

    best = (gram - alpha * scale / 2 * d) @ torch.linalg.inv(gram + 0.4 * scale * torch.eye(9).double())
    assert all(float(cost(best + step * s)) > float(cost(best)) for step in (0.01, -0.01))
    # the scale of H does not matter
    torch.testing.assert_close(self_expressed(100 * h, x, alpha, 0.4), 100 * got)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_vectors_and_losses_are_those_of_dense_matrices(n_layers: int) -> None:
    model = of_nodes("hero", dropout=0.0, n_layers=n_layers, projection_dim=6, gamma=0.5, eta=0.3).double().train()
    assert isinstance(model, HERO)
    whole = graph()
    by, on = (whole.adjacency(edge_type).to_dense().double().clamp(max=1) for edge_type in whole.edge_types)
    h = {}
    for name, own in zip(model.types, model.type_layers, strict=True):
        assert isinstance(own, TypeLayer)
        known, weights = _dense(whole, name), own.linear.weight.T
        h[name] = F.elu((weights if known is None else known @ weights) + own.linear.bias)
    matrices = [
        ("paper", "author", by),
        ("author", "paper", by.T),
        ("paper", "subject", on),
        ("subject", "paper", on.T),
    ]

    def layer(number: int, given: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        layers: Any = model.of_relations[number]
        for place, weights in zip(model._layers[number], layers, strict=True):
            own, other, adj = matrices[place]
            mean = adj / adj.sum(1, keepdim=True).clamp(min=1)
            found.setdefault(own, []).append((mean @ given[other] @ weights.weight.T).clamp(min=0))
        return {own: sum(parts) / len(parts) for own, parts in found.items()}  # type: ignore[misc]

    z = layer(0, h)
    if n_layers == 2:
        assert isinstance(model.joined, nn.Linear)
        others = model.joined(torch.cat([layer(1, z)["paper"], h["paper"]], 1))
    else:
        others = z["paper"]
    x = _dense(whole, "paper")
    assert x is not None
    near = expressed(model.subspace(x), x, 1.0, 5.0)
    torch.testing.assert_close(model.eval().embed(), torch.cat([near, others], 1), rtol=1e-4, atol=1e-6)

    def unit(a: Tensor, b: Tensor) -> Tensor:
        c = a.T @ b
        return torch.stack([row / row.norm().clamp(min=1e-12) for row in c])

    def trace(a: Tensor, b: Tensor) -> Tensor:
        return unit(a, b).trace()

    def spread(a: Tensor) -> Tensor:
        return unit(a, a).exp().sum().log()

    p1, p2 = ((v @ model.consistent).clamp(min=0) for v in (near, others))  # type: ignore[operator]
    q1, q2 = ((v @ model.specific).clamp(min=0) for v in (near, others))  # type: ignore[operator]
    turned = (q1 @ model.turned).clamp(min=0)  # type: ignore[operator]
    batch: GraphBatch = next(iter(model.train().batches(None, 1, Generators(0)).epoch(0)))
    got = model(batch, ["consistency", "specificity"])
    expected = 0.5 * (spread(p1) + spread(p2)) - trace(p2, p1)
    torch.testing.assert_close(got["consistency"], expected, rtol=1e-4, atol=1e-6)
    expected = 0.3 * (trace(turned, q1) + trace(turned, p1)) - trace(turned, q2)
    torch.testing.assert_close(got["specificity"], expected, rtol=1e-4, atol=1e-6)


def _dense(whole: HeteroGraph, name: str) -> Tensor | None:
    x = whole.features(name)
    if x is None:
        return None
    x = (x.to_dense() if isinstance(x, Csr) else x).double()
    return x / x.sum(1, keepdim=True).clamp(min=1e-30)


def test_projections_are_not_trained() -> None:
    model = of_nodes("hero")
    names = {name for name, _ in model.named_buffers()}
    assert {"consistent", "specific", "turned"} <= names
    assert model.embed().shape == (N_PAPERS, model.embedding_dim)


@pytest.mark.parametrize(("settings", "message"), [({"n_layers": 3}, "n_layers"), ({"mini_batch": True}, "mini_batch")])
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HERO(**settings)


def test_nodes_without_edges_are_refused() -> None:
    pairs = torch.tensor([0, 1]), torch.tensor([1, 0])
    of = HeteroGraph.from_edge_lists({"paper": 2, "author": 2}, {("author", "knows", "author"): pairs})
    with pytest.raises(ValueError, match="no edge type joins"):
        HERO(metapaths=("paper-author-paper",)).build(of)
