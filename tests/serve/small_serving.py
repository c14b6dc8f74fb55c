"""Small logs and recommenders of random weights that the tests of serving share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from pydantic import Field
from small_settings import with_small
from torch import Tensor

from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.split import Interactions
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import ClosedFormModel, Model, ModelConfig, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphSpace, NodeModel
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.recommender import Recommender


class ServedTowersConfig(ModelConfig):
    hidden_dim: Annotated[int, Field(ge=1)] = 6


@registry.register("model")
class ServedTowers(Model):
    """The mean of the history's item vectors against item vectors."""

    Config = ServedTowersConfig

    def _build(self, space: Space) -> None:
        self.table = torch.nn.Embedding(space.n_items, self.config.hidden_dim)

    def encode_users(self, query: Query) -> Tensor:
        sums = self.table.weight.new_zeros(len(query), self.config.hidden_dim)
        return sums.index_add(0, query.history.rows, self.table(query.history.values))

    def encode_items(self) -> Tensor:
        return self.table.weight


def log(
    kind: str = "polars", user: Any = str, item: Any = int, n_users: int = 30, n_items: int = 40
) -> Interactions:
    """Seven items of each user."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"who": user(u), "what": item(i), "when": n}
        for u in range(n_users)
        for n, i in enumerate(torch.randperm(n_items, generator=generator)[:7].tolist())
    ]
    frame: Any = pd.DataFrame(rows)
    if kind != "pandas":
        frame = pl.DataFrame({key: [row[key] for row in rows] for key in rows[0]})
    return Interactions.from_frame(
        frame.to_arrow() if kind == "pyarrow" else frame, user="who", item="what", timestamp="when"
    )


def serve(data: Interactions, model: Model | None = None, **settings: Any) -> Recommender:
    model = model if model is not None else ServedTowers()
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    columns, kind = data.columns, data.kind
    return Recommender(
        model, data.users, data.items, data.ordered.items, columns=columns, kind=kind, **settings
    )


def recommender(
    make: Callable[[], Model] = lambda: SASRec(hidden_dim=8, max_len=20),
    n_items: int = 60,
    seed: int = 1,
    **ids: Any,
) -> Recommender:
    """Of 40 users who differ in length, in a log in which every item occurs, with item features;
    last item without.
    """
    user, item = ids.get("user", int), ids.get("item", int)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"who": user(u), "what": item(i), "when": n}
        for u in range(40)
        for n, i in enumerate(torch.randperm(n_items, generator=generator)[: 5 + u % 20].tolist())
    ]
    rows += [{"who": user(0), "what": item(i), "when": 100 + i} for i in range(n_items)]
    data = Interactions.from_frame(pd.DataFrame(rows), user="who", item="what", timestamp="when")
    split = data.split("leave-one-out")
    model = make().build(Space(n_users=data.n_users, n_items=data.n_items), seed=seed)
    if isinstance(model, ClosedFormModel):
        model.fit(split.train)
    elif isinstance(model, TrainableModel):
        model.setup(split.train)
    numbers = range(n_items - 1)
    features = pl.DataFrame(
        [
            data.items.ids(numbers).alias("what"),
            pl.Series("title", [f"Ünit {n}" for n in numbers]),
            pl.Series("price", [n / 4 for n in numbers]),
            pl.Series("tags", [["a", "b"][: n % 3] for n in numbers]),
        ]
    )
    made = Recommender.for_log(model, split.sealed().interactions)
    columns = made.columns
    return Recommender(
        model,
        made.users,
        made.items,
        made.seen,
        columns=columns,
        kind="polars",
        item_features=features,
    )


#: the library's recommenders; other tests register models of their own
RECOMMENDERS = [
    name
    for name, cls in sorted(
        (name, registry.load("model", name)) for name in registry.names("model")
    )
    if cls.__module__.startswith("recgraph.") and not issubclass(cls, NodeModel)
]
SMALL = {"hidden_dim": 16, "max_len": 8, "encoder.inner_dim": 32, "loss.n_negatives": 24}


def of_model(name: str, seed: int = 1, **settings: Any) -> Recommender:
    """A small model by its name, for a log with titles."""
    cls, data = registry.load("model", name), log(item=np.int16)
    space = Space(n_users=data.n_users, n_items=data.n_items)
    rows, items = data.ordered.items, torch.arange(data.n_items)
    if cls.reads_graph:
        edges = {
            ("user", "interacts", "item"): (rows.rows, rows.values),
            ("item", "has", "genre"): (items, items % 3),
        }
        counts = {"user": data.n_users, "item": data.n_items, "genre": 3}
        space = GraphSpace(**space.model_dump(), graph=HeteroGraph.from_edge_lists(counts, edges))
    model = cls(**with_small(cls, SMALL, settings)).build(space, seed)
    if isinstance(model, ClosedFormModel):
        model.fit(data.split("leave-one-out").train)
    elif isinstance(model, TrainableModel):
        model.setup(data.split("leave-one-out").train)
    titles = pl.DataFrame(
        [data.items.values.alias("what"), pl.Series("title", [f"film {n}" for n in items.tolist()])]
    )
    record = {"metrics": {"ndcg@10": 0.5}}
    return Recommender(
        model,
        data.users,
        data.items,
        rows,
        columns=data.columns,
        item_features=titles,
        record=record,
    )
