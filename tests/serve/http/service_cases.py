"""Bundles and clients that the tests of the service share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch
from starlette.testclient import TestClient

from recgraph.data.interactions import Interactions
from recgraph.models.base import Model, Space, TrainableModel
from recgraph.models.closed_form.linear import EASE
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.http.app import make_app
from recgraph.serve.http.asked import AnyAsked, Limits
from recgraph.serve.http.served import Served
from recgraph.serve.http.service import Options, Service
from recgraph.serve.http.writing import Answer
from recgraph.serve.recommender import Recommender

N_USERS = 40


def recommender(
    make: Callable[[], Model] = lambda: SASRec(hidden_dim=8, max_len=20),
    n_items: int = 60,
    user: Callable[[int], Any] = int,
    item: Callable[[int], Any] = int,
    seed: int = 1,
    changed: pl.DataFrame | None = None,
) -> Recommender:
    """A model with weights as drawn and a log in which users differ in length, with ids of a type."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        (user(u), item(i), n)
        for u in range(N_USERS)
        for n, i in enumerate(torch.randperm(n_items, generator=generator)[: 5 + u % 20].tolist())
    ]
    rows += [(user(0), item(i), 100 + i) for i in range(n_items)]  # every item occurs
    names = ("who", "what", "when")
    log = Interactions.from_frame(
        pl.DataFrame({name: [row[place] for row in rows] for place, name in enumerate(names)}, strict=False)
        if not callable(getattr(user(0), "hex", None)) or isinstance(user(0), float | bytes)
        else _objects(rows, names),
        user="who",
        item="what",
        timestamp="when",
    )
    split = log.split("leave-one-out")
    model = make().build(Space(n_users=log.n_users, n_items=log.n_items), seed=seed)
    if isinstance(model, SASRec) and model.gap_embedding is not None:
        torch.nn.init.normal_(model.gap_embedding.weight, generator=generator)
    if isinstance(model, EASE):
        model.fit(split.train)
    elif isinstance(model, TrainableModel):
        model.setup(split.train)
    made = Recommender.for_split(model, split)
    return Recommender(
        model,
        made.users,
        made.items,
        made.seen,
        columns=made.columns,
        kind=made.kind,
        item_features=some_features(made) if changed is None else changed,
    )


def some_features(of: Recommender) -> pl.DataFrame:
    """Columns of several types; the last item has no row."""
    numbers = range(len(of.items) - 1)
    return pl.DataFrame(
        [
            of.items.ids(numbers).alias("what"),
            pl.Series("title", [f"Ünit {n}" for n in numbers]),
            pl.Series("price", [float("nan") if n == 3 else n / 4 for n in numbers]),
            pl.Series("tags", [["a", "b"][: n % 3] for n in numbers]),
        ]
    )


def _objects(rows: list[tuple[Any, ...]], names: tuple[str, ...]) -> Any:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(names))


def served(of: Recommender | None = None, **limits: Any) -> Served:
    return Served(of if of is not None else recommender(), Limits(**limits), "cafe")


def read(of: Served, request: dict[str, Any]) -> AnyAsked:
    """A request for similar items where it names items, else for recommendations."""
    reading = of.reader.read_similar if "items" in request else of.reader.read
    return reading(json.dumps(request).encode())


def bodies(of: Served, requests: list[dict[str, Any]]) -> list[Any]:
    """The parsed answers to requests that are answered together; errors as they are."""
    found = of.answer([read(of, request) for request in requests])
    return [json.loads(answer.body) if isinstance(answer, Answer) else answer for answer in found]


@contextlib.contextmanager
def client(path: Path, limits: Limits | None = None, **options: Any) -> Iterator[tuple[TestClient, Service]]:
    """A client of a service that runs within the block."""
    service = Service(path, limits or Limits(), Options(**options))
    with TestClient(make_app(service)) as made:
        yield made, service
