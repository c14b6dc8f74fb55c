"""Stages of the graph line for :mod:`experiments.bench.growth`: work that was quadratic in nodes or
in a hub's size.

Graphs are generated: each author has written three papers on average, each paper is at one of 20
venues, so that a venue is a hub that joins N / 20 papers; ``pathsim`` has one item that all users
share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.bench.growth import Stage
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.models.heterogeneous.heco import HeCo
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW
from recgraph.rng import Generators

_OVER_VENUES = ("author-paper-venue-paper-author",)
_TOGETHER = ("author-paper-author",)
_SMALL: dict[str, Any] = {"hidden_dim": 32, "raw_features": ["author", "paper", "venue"]}
#: sizes of what touches every node once or twice, and of what contrasts every node with drawn
#: candidates
_SIZES, _CONTRASTED = (16_000, 64_000, 256_000), (8_000, 32_000, 128_000)


def venues(n: int) -> HeteroGraph:
    """n authors and n papers."""
    draw = torch.Generator().manual_seed(0)
    pairs = {
        ("author", "writes", "paper"): (
            torch.arange(3 * n) % n,
            torch.randint(n, (3 * n,), generator=draw),
        ),
        ("paper", "at", "venue"): (torch.arange(n), torch.randint(20, (n,), generator=draw)),
    }
    counts = {"author": n, "paper": n, "venue": 20}
    features = {name: torch.rand(count, 16, generator=draw) for name, count in counts.items()}
    return HeteroGraph.from_edge_lists(counts, pairs, features=features)


def shared_item(n: int) -> HeteroGraph:
    """n users of one item, and three others each of n."""
    draw = torch.Generator().manual_seed(0)
    users = torch.cat([torch.arange(n), torch.arange(3 * n) % n])
    items = torch.cat(
        [torch.zeros(n, dtype=torch.int64), torch.randint(1, n, (3 * n,), generator=draw)]
    )
    return HeteroGraph.from_edge_lists(
        {"user": n, "item": n}, {("user", "has", "item"): (users, items)}
    )


_DRAWN = {"objective": {"n_candidates": 512}}


@dataclass
class Trained:
    """A model and its batches."""

    model: GraphModel
    generators: Generators

    @classmethod
    def of(cls, model: GraphModel, n: int) -> Trained:
        return cls(model.build(venues(n), seed=0).train(), Generators(0))

    def step(self) -> None:
        """Terms, loss and gradients of the first batch of an epoch."""
        batch = next(iter(self.model.batches(None, 512, self.generators).epoch(0)))
        phase = self.model.phases[0]
        terms: dict[str, Tensor] = self.model(batch, list(phase.terms))
        torch.stack([terms[name] * weight for name, weight in phase.terms.items()]).sum().backward()

    @torch.no_grad()
    def embed(self) -> None:
        self.model.eval().embed()


def by_batches(n: int) -> Trained:
    return Trained.of(
        MEOW(
            metapaths=_OVER_VENUES,
            mini_batch=True,
            prototypes={"n_clusters": (20,), "restarts": 1},
            **_SMALL,
        ),
        n,
    )


def first_batch(of: Trained) -> None:
    """A step before which all nodes are embedded and clustered."""
    assert isinstance(of.model, MEOW)
    of.model.memory.epoch.fill_(-1)
    of.step()


def adameow(n: int) -> Trained:
    return Trained.of(AdaMEOW(metapaths=_OVER_VENUES, mini_batch=True, **_SMALL), n)


def drawn(n: int) -> Trained:
    prototypes = {"n_clusters": (20,), "restarts": 1, "iterations": 5}
    settings = {"paths": {"form": "factorised"}, "contrast": _DRAWN, "prototypes": prototypes}
    return Trained.of(MEOW(metapaths=_TOGETHER, **settings, **_SMALL), n)


def heco(n: int) -> Trained:
    return Trained.of(HeCo(metapaths=_TOGETHER, contrast=_DRAWN, **_SMALL), n)


def pathsim(graph: HeteroGraph) -> None:
    MetaPath("user-item-user", top_k=20, hub_cap=500).adjacency(graph)


def build_over_venues(graph: HeteroGraph) -> None:
    AdaMEOW(metapaths=_OVER_VENUES, mini_batch=True, **_SMALL).build(graph, seed=0)


def stages() -> list[Stage]:
    return [
        Stage("graph-batches-build", _SIZES, "nodes", build_over_venues, venues),
        Stage("graph-batches-first-step", _SIZES, "nodes", first_batch, by_batches),
        Stage("graph-batches-embed", _SIZES, "nodes", Trained.embed, adameow),
        Stage("graph-pathsim-hub", _SIZES, "users of an item", pathsim, shared_item),
        Stage("graph-infonce-drawn", _CONTRASTED, "nodes", Trained.step, drawn),
        Stage("graph-heco-step", _CONTRASTED, "nodes", Trained.step, heco),
        Stage("graph-heco-embed", _CONTRASTED, "nodes", Trained.embed, heco),
    ]
