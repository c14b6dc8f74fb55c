"""A planted structure, models for it and their batches: what tests of user-item models share."""

from __future__ import annotations

from typing import Any

import torch

from recgraph import registry
from recgraph.data.batches import PairBatch
from recgraph.data.part import Cases, Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Space
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

SPACE = Space(n_users=24, n_items=30)
NAMES = [
    name
    for name in registry.names("model")
    if issubclass(registry.load("model", name), CollaborativeModel)
]
CONTRASTIVE = ("ncl", "sgl", "simgcl", "xsimgcl")


def planted(n_groups: int = 3) -> tuple[Part, Cases]:
    """Users and items of one group belong together: each user has 6 of its group's 10 items, 2 are
    to be found.
    """
    g = torch.Generator().manual_seed(0)
    rows, truth = [], []
    for user in range(SPACE.n_users):
        own = torch.arange(user % n_groups, SPACE.n_items, n_groups)[
            torch.randperm(10, generator=g)
        ].tolist()
        rows.append(own[:6])
        truth.append(own[6:8])
    history = Ragged.from_lists(rows)
    cases = Cases(torch.arange(SPACE.n_users), history, Ragged.from_lists(truth), SPACE.n_items)
    ratings = history.values % 5 + 1.0
    return Part(history, SPACE.n_items, ratings=ratings), cases


def with_relations(part: Part, n_groups: int = 3) -> GraphSpace:
    """The interactions as a graph; the items of a group have one genre, its users are friends in a
    ring.
    """
    users, items = torch.arange(part.n_users), torch.arange(part.n_items)
    edges = {
        ("user", "interacts", "item"): (part.items.rows, part.items.values),
        ("item", "has", "genre"): (items, items % n_groups),
        ("user", "friend", "user"): (users, (users + n_groups) % part.n_users),
    }
    counts = {"user": part.n_users, "item": part.n_items, "genre": n_groups}
    graph = HeteroGraph.from_edge_lists(counts, edges)
    return GraphSpace(n_users=part.n_users, n_items=part.n_items, graph=graph)


def made(name: str, seed: int = 0, **settings: Any) -> CollaborativeModel:
    model: CollaborativeModel = registry.load("model", name)(**{"hidden_dim": 16, **settings})
    return model.build(with_relations(planted()[0]) if model.reads_graph else SPACE, seed)


def first_batch(model: CollaborativeModel, seed: int = 5, epoch: int = 0) -> PairBatch:
    batch: PairBatch = next(model.batches(planted()[0], 32, Generators(seed)).epoch(epoch))
    return batch
