"""Models of random weights for the graph that is worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from small_graph import INTERACTIONS, small_graph

from recgraph import registry
from recgraph.data.ids import IdMap
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Space
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

USERS, ITEMS = ["ann", "bob", "cat", "dan"], ["A", "B", "C", "D", "E"]
FEATURES = pl.DataFrame(
    {
        "item": ["C", "A", "B", "E"],
        "title": ["Cube", "Alien", "Brazil", None],
        "genres": [["sf", "tense"], ["sf"], ["sf", "tense"], ["tense"]],
    }
)


def recommender(
    name: str = "meowrec", interactions: Sequence[tuple[int, int]] = INTERACTIONS, **settings: Any
) -> Recommender:
    """A model of random weights for the hand-worked graph, with names."""
    base = small_graph(interactions)
    ids = {"user": USERS, "item": ITEMS, "genre": ["sf", "tense"]}
    nodes = {kind: type(node)(node.count, IdMap(pl.Series(ids[kind]))) for kind, node in base.nodes.items()}
    graph = HeteroGraph(nodes, base.edges)
    seen = Ragged.from_lists([[item for user, item in interactions if user == number] for number in range(4)])
    model = registry.load("model", name)(**settings)
    sizes = {"n_users": 4, "n_items": 5}
    model.build(GraphSpace(**sizes, graph=graph) if model.reads_graph else Space(**sizes), seed=3)
    part = Part(seen, 5)
    if hasattr(model, "fit"):
        model.fit(part)
    elif hasattr(model, "setup"):
        model.setup(part)
    users, items = (IdMap(pl.Series(ids[kind])) for kind in ("user", "item"))
    return Recommender(model, users, items, seen, item_features=FEATURES)


SETTINGS: dict[str, Any] = {
    "hidden_dim": 8,
    "user_metapaths": ("user-item-user", "user-user"),
    "item_metapaths": ("item-genre-item", "item-user-item"),
}
