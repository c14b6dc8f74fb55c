"""The order in which the nodes of a graph lie in its file must not matter, for every model of
nodes.

**Same results.** What a model computes of a graph has no random part but what the tests below hold
fixed: initial weights, which no node has for itself where its type has features, and the random
orders, keys and rows that are drawn for nodes. These are handed to the same nodes in both graphs;
without masks and dropout, losses and embeddings are then the same for the same nodes, to rounding.

**Same distributions.** Masks, dropout, batches, sampled neighbours, the first rows of k-means and
random orders are drawn by place, uniformly, whatever lies there: a permuted graph gets what another
seed would give. That the draws are uniform is tested where they are made; here, for ties, that no
node is kept more often than another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from every_model import TRAINED_OF_NODES, graph, of_nodes
from small_settings import with_small
from torch import Tensor

from recgraph import registry
from recgraph.contrast import prototypes
from recgraph.contrast.clustering import kmeans
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous import base, heco
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.rng import Generators

#: without masks and dropout, where a model has them
UNMASKED = {
    "augmentations": [{"name": "feature_mask", "ratio": 0.0}, {"name": "edge_drop", "ratio": 0.0}]
}
PLAIN: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "twins": UNMASKED}
BATCHES = {
    "mini_batch": True,
    "contrast": {"queue_size": 0},
    "sampling": {"fan_out": ((None,), (None,)), "context_fan_out": (None,)},
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TRAINED_OF_NODES),
    ("heco", {"features": {"paper": "one-hot"}}),
    (
        "meow",
        {"features": {"paper": "one-hot", "subject": "one-hot"}, "paths": {"counts": "binary"}},
    ),
    ("meow", BATCHES),
    ("adameow", BATCHES),
]


def hand_out(monkeypatch: pytest.MonkeyPatch, order: Tensor) -> None:
    """Random orders and rows become those of the nodes, of which node j is ``order[j]`` of the
    graph as it was.
    """
    drawn = torch.randperm(len(order), generator=torch.Generator().manual_seed(9))[order]
    randperm = torch.randperm
    monkeypatch.setattr(
        torch, "randperm", lambda n, **how: drawn if n == len(drawn) else randperm(n, **how)
    )

    def clustered(
        x: Tensor, k: int, **how: Any
    ) -> Any:  # from rows that are chosen by what they hold
        return kmeans(x, k, **how | {"start": x[torch.argsort(x[:, 0])[:k]]})

    monkeypatch.setattr(prototypes, "kmeans", clustered)
    monkeypatch.setattr(heco, "sample_neighbours", lambda adj, *_: adj)
    monkeypatch.setattr(base, "coordinates", _by_place)


def _by_place(of: HeteroGraph, dim: int, _: torch.Generator) -> dict[str, Tensor]:
    """First rows of weights as drawn ones are: by the nodes' places (test_spectral.py has those of
    the graph).
    """
    draw = torch.Generator().manual_seed(11)
    return {name: torch.randn(of.count(name), dim, generator=draw) for name in of.node_types}


def results(model: GraphModel, nodes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of a training step, on these nodes where it takes a batch, and the embeddings."""
    batch = next(iter(model.batches(None, 12, Generators(5)).epoch(0)))
    if batch.nodes is not None:
        batch = replace(batch, nodes=nodes[:12])
    with torch.no_grad():
        terms = model.double().train()(batch, model.phases[0].terms)
        return terms, model.eval().embed()


def of_both(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Any], Tensor]:
    """:func:`results` of a graph and of the permuted one, and the order of its papers."""
    plain = with_small(registry.load("model", name), PLAIN, settings)
    whole, draw = graph(), torch.Generator().manual_seed(3)
    orders = {node: torch.randperm(whole.count(node), generator=draw) for node in whole.node_types}
    same = {node: torch.arange(len(order)) for node, order in orders.items()}
    nodes = torch.randperm(len(orders["paper"]), generator=draw)
    found = []
    for order in (same, orders):
        with monkeypatch.context() as patch:
            hand_out(patch, order["paper"])
            model = of_nodes(name, of=whole.permuted(order), **plain)
            # rows of weights are the nodes' own
            for stage in getattr(model, "stages", [model]):
                for node, layer in zip(stage.types, stage.type_layers, strict=True):
                    if stage.features_of(whole, node) is None:
                        layer.linear.weight.data = layer.linear.weight.data[:, order[node]]
            found.append(results(model, torch.argsort(order["paper"])[nodes]))
    return found, orders["paper"]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_results_are_those_of_the_nodes(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((terms, z), (of_permuted, z_permuted)), order = of_both(name, settings, monkeypatch)
    torch.testing.assert_close(z_permuted, z[order], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(of_permuted, terms, rtol=1e-9, atol=1e-12)
