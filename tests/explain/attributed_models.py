"""Models of random weights whose scores say something, on a random log of a dozen users and thirty items."""

from __future__ import annotations

from collections.abc import Sequence
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
from recgraph.models.base import Model, Space
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

N_USERS, N_ITEMS = 12, 30
#: a model of every kind that reads a history, small
SEQUENCES: dict[str, dict[str, Any]] = {
    "sasrec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 2, "inner_dim": 16}},
    "mclrec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 1, "inner_dim": 16}},
    "esasrec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 1, "inner_dim": 16}},
    "bert4rec": {"hidden_dim": 8, "max_len": 6, "encoder": {"n_layers": 2, "inner_dim": 16}},
    "gru4rec": {"hidden_dim": 8, "max_len": 6, "encoder": {"inner_dim": 16}},
}
PATHS = {"hidden_dim": 8, "user_metapaths": ("user-item-user", "user-user"), "item_metapaths": ("item-user-item",)}
GRAPHS: dict[str, dict[str, Any]] = {"lightgcn": {"hidden_dim": 8}, "meowrec": PATHS, "adameowrec": PATHS}


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
    part = Part(Ragged.from_lists(rows), N_ITEMS)
    if hasattr(model, "fit"):
        model.fit(part)
    elif hasattr(model, "setup"):
        model.setup(part)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    if double:
        model.double()
    return model.train()


def query_of(rows: Sequence[Sequence[int]], user: int) -> Query:
    return Query(torch.tensor([user]), Ragged.from_lists([rows[user]]))


def subject_of(
    model: Model, rows: Sequence[Sequence[int]], user: int, targets: Sequence[int] = (1, 20), **settings: Any
) -> Subject:
    return Subject(model, query_of(rows, user), torch.tensor(targets), **settings)


def recommender_of(model: Model, rows: Sequence[Sequence[int]]) -> Recommender:
    users, items = (IdMap(pl.Series([f"{kind}{n}" for n in range(count)])) for kind, count in _COUNTS)
    return Recommender(model, users, items, Ragged.from_lists(rows))


_COUNTS = (("u", N_USERS), ("i", N_ITEMS))
