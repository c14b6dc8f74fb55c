"""A graph small enough to count its paths by hand, the slow way to count them, and models of random
weights for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import torch

from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.ids import IdMap
from recgraph.data.log import INTERACTS
from recgraph.data.part import Part
from recgraph.explain.attribution import Subject
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import Model, Space
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

#: users 0-3, items 0-4, genres 0-1; user 0 had items 0 and 1
INTERACTIONS = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2), (2, 3), (3, 4)]
GENRES = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (4, 1)]
FRIENDS = [(0, 3), (0, 3), (3, 0), (1, 2)]  # one edge stands twice


def small_graph(interactions: Sequence[tuple[int, int]] = INTERACTIONS) -> HeteroGraph:
    def ends(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
        return [a for a, _ in pairs], [b for _, b in pairs]

    return HeteroGraph.from_edge_lists(
        {"user": 4, "item": 5, "genre": 2},
        {
            ("user", "interacts", "item"): ends(interactions),
            ("item", "has", "genre"): ends(GENRES),
            ("user", "friend", "user"): ends(FRIENDS),
        },
        weights={
            ("user", "interacts", "item"): [float(place + 2) for place in range(len(interactions))]
        },
    )


def every_path(graph: HeteroGraph, path: str, start: int) -> Iterator[tuple[int, ...]]:
    """All sequences of nodes from a start, by walking."""
    tables = []
    for step in MetaPath(path).route(graph):
        dense = step.matrix(graph).with_weights(None).to_dense()
        tables.append([sorted(set(row.nonzero().flatten().tolist())) for row in dense])

    def walk(before: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(before) > len(tables):
            yield before
            return
        for node in tables[len(before) - 1][before[-1]]:
            yield from walk((*before, node))

    yield from walk((start,))


def chance(graph: HeteroGraph, path: str, nodes: tuple[int, ...]) -> float:
    """The probability that a random walk along a meta-path from the first of the nodes goes through
    all of them.
    """
    found = 1.0
    for step, node in zip(MetaPath(path).route(graph), nodes, strict=False):
        row = step.matrix(graph).with_weights(None).to_dense()[node]
        found /= int((row > 0).sum())
    return found


USERS, ITEMS = ["ann", "bob", "cat", "dan"], ["A", "B", "C", "D", "E"]
FEATURES = pl.DataFrame(
    {
        "item": ["C", "A", "B", "E"],
        "title": ["Cube", "Alien", "Brazil", None],
        "genres": [["sf", "tense"], ["sf"], ["sf", "tense"], ["tense"]],
    }
)


def give(model: Any, train: Part) -> None:
    """What a model reads of a training part before it ranks."""
    if hasattr(model, "fit"):
        model.fit(train)
    elif hasattr(model, "setup"):
        model.setup(train)


def recommender(
    name: str = "meowrec", interactions: Sequence[tuple[int, int]] = INTERACTIONS, **settings: Any
) -> Recommender:
    """A model of random weights for the hand-worked graph, with names."""
    base = small_graph(interactions)
    ids = {"user": USERS, "item": ITEMS, "genre": ["sf", "tense"]}
    nodes = {
        kind: type(node)(node.count, IdMap(pl.Series(ids[kind])))
        for kind, node in base.nodes.items()
    }
    graph = HeteroGraph(nodes, base.edges)
    seen = Ragged.from_lists(
        [[item for user, item in interactions if user == number] for number in range(4)]
    )
    model = registry.load("model", name)(**settings)
    sizes = {"n_users": 4, "n_items": 5}
    model.build(GraphSpace(**sizes, graph=graph) if model.reads_graph else Space(**sizes), seed=3)
    give(model, Part(seen, 5))
    users, items = (IdMap(pl.Series(ids[kind])) for kind in ("user", "item"))
    return Recommender(model, users, items, seen, item_features=FEATURES)


SETTINGS: dict[str, Any] = {
    "hidden_dim": 8,
    "user_metapaths": ("user-item-user", "user-user"),
    "item_metapaths": ("item-genre-item", "item-user-item"),
}


# -- models of random weights whose scores say something, on a random log of a dozen users and
# thirty items

N_USERS, N_ITEMS = 12, 30
#: a model of every kind that reads a history, small
SEQUENCES: dict[str, dict[str, Any]] = {
    "sasrec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 2, "inner_dim": 16}},
    "mclrec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 1, "inner_dim": 16}},
    "esasrec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 1, "inner_dim": 16}},
    "bert4rec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 2, "inner_dim": 16}},
    "gru4rec": {"hidden_dim": 8, "max_len": 6, "encoder": {"inner_dim": 16}},
}
PATHS = {
    "hidden_dim": 8,
    "user_metapaths": ("user-item-user", "user-user"),
    "item_metapaths": ("item-user-item",),
}
GRAPHS: dict[str, dict[str, Any]] = {
    "lightgcn": {"hidden_dim": 8},
    "meowrec": PATHS,
    "adameowrec": PATHS,
}


def histories(seed: int = 0) -> list[list[int]]:
    """Two to nine events of each user, items repeated now and then; the last user has one event."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 10, (N_USERS - 1,), generator=g).tolist()
    return [*(torch.randint(N_ITEMS, (n,), generator=g).tolist() for n in lengths), [3]]


def model_of(
    name: str,
    rows: Sequence[Sequence[int]],
    double: bool = True,
    **settings: Any,
) -> Model:
    """A built model with weights that are large enough for its scores to differ, in training mode.

    Its graph has an edge for each event, as that of a log has.
    """
    model: Model = registry.load("model", name)(**settings)
    sizes = {"n_users": len(rows), "n_items": N_ITEMS}
    edges = [(user, item) for user, row in enumerate(rows) for item in row]
    friends = [(user, (user + 5) % len(rows)) for user in range(len(rows))]
    if model.reads_graph:
        graph = HeteroGraph.from_edge_lists(
            {"user": len(rows), "item": N_ITEMS},
            {
                INTERACTS: tuple(map(list, zip(*edges, strict=True))),
                ("user", "friend", "user"): tuple(map(list, zip(*friends, strict=True))),
            },
        )
        model.build(GraphSpace(**sizes, graph=graph), seed=1)
    else:
        model.build(Space(**sizes), seed=1)
    give(model, Part(Ragged.from_lists(rows), N_ITEMS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    if double:
        model.double()
    return model.train()


def query_of(rows: Sequence[Sequence[int]], user: int) -> Query:
    return Query(torch.tensor([user]), Ragged.from_lists([rows[user]]))


def subject_of(
    model: Model,
    rows: Sequence[Sequence[int]],
    user: int,
    targets: Sequence[int] = (1, 20),
    **settings: Any,
) -> Subject:
    return Subject(model, query_of(rows, user), torch.tensor(targets), **settings)


def recommender_of(model: Model, rows: Sequence[Sequence[int]]) -> Recommender:
    users, items = (
        IdMap(pl.Series([f"{kind}{n}" for n in range(count)])) for kind, count in _COUNTS
    )
    return Recommender(model, users, items, Ragged.from_lists(rows))


_COUNTS = (("u", N_USERS), ("i", N_ITEMS))
