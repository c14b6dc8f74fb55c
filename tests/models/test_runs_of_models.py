"""A run of every registered recommender: two epochs on a tiny log, both conventions, saved,
resumed, sealed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from every_model import RECOMMENDERS, SMALL
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.models.base import Model, TrainableModel

N_USERS, N_ITEMS = 20, 15


def log(others: bool = False, weights: Callable[[int], Any] | None = None) -> rg.Interactions:
    """A user of all items and users of 6 to 9; ``others``: the last item of these, the tested one,
    is another; ``weights`` makes those of so many interactions."""
    draw, rows = np.random.default_rng(0), [(0, item, item) for item in range(N_ITEMS)]
    for user in range(1, N_USERS):
        items = draw.permutation(N_ITEMS)[: draw.integers(6, 10) + 1].tolist()
        kept = [*items[:-2], items[-1] if others else items[-2]]
        rows += [(user, item, time) for time, item in enumerate(kept)]
    films = pl.DataFrame(
        {"item": range(N_ITEMS), "genre": [f"g{item % 3}" for item in range(N_ITEMS)]}
    )
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    given = {"user": "user", "item": "item", "timestamp": "time"}
    if weights is not None:
        frame, given["weight"] = frame.with_columns(w=pl.Series(weights(len(rows)))), "w"
    return rg.Interactions.from_frame(frame, **given).with_features(item_features=films)


def model_of(name: str) -> Model:
    cls = registry.load("model", name)
    few = {"prototypes.n_clusters": (3,), "ranker.max_iter": 5, "ranker.min_samples_leaf": 2}
    made: Model = cls(**with_small(cls, SMALL | few, {}))
    return made


def fitted(
    name: str, data: rg.Interactions, out: Path | None = None, epochs: int = 2, **how: Any
) -> Any:
    training = {"max_epochs": epochs, "batch_size": 64, "metric": "last"}
    own = training if issubclass(registry.load("model", name), TrainableModel) else {}
    return rg.fit(
        model_of(name), data.split(), seed=3, out=out, device="cpu", progress=False, **own, **how
    )


def same(one: Model, other: Model) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_a_run(name: str, tmp_path: Path) -> None:
    run = fitted(name, log(), tmp_path / "run")
    of_seen = {each.protocol.seen for each in run.evaluate("valid")}
    assert of_seen == {"keep", "exclude"}
    asked = {"users": [0, 3], "k": 4}
    assert rg.load(tmp_path / "run").recommend(**asked).equals(run.recommend(**asked))

    # one epoch of data whose test items are others, and then the second one of the same run
    sealed = fitted(name, log(others=True), epochs=1)
    first = fitted(name, log(), tmp_path / "resumed", epochs=1)
    assert same(sealed.model, first.model)
    assert same(fitted(name, log(), tmp_path / "resumed", resume=True).model, run.model)
