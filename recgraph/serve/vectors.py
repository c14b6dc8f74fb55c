"""The vectors of items and users with their ids: scores are inner products of the two."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.dataframe import FrameKind, to_native
from recgraph.evaluate.ranking import GROUP, device_of, evaluating
from recgraph.models.base import Model


def check_vectors(model: Model) -> None:
    """Refuse a model that ranks by scores alone."""
    if not model.has_vectors:
        raise ValueError(f"{type(model).__name__} ranks by scores alone and has no vectors of users or items")


def encode_items(model: Model) -> Tensor:
    """[n_items, D] float32, on the host."""
    check_vectors(model)
    with evaluating(model):
        return model.encode_items().detach().float().to("cpu")


def encode_users(model: Model, query: Query) -> Tensor:
    """[B, D] float32, on the host: the vectors that a ranking of the same users reads, in the query's order."""
    check_vectors(model)
    by_length = query.history.lengths.argsort(stable=True)
    with evaluating(model):
        parts = [
            model.encode_users(query.take(rows).to(device_of(model))).detach().float().to("cpu")
            for rows in torch.split(by_length, GROUP)
        ]
    return torch.cat(parts)[by_length.argsort()]


def vector_frame(name: str, labels: pl.Series, vectors: Tensor, kind: FrameKind) -> Any:
    """A frame of ids [N] in the column ``name`` and of vectors [N, D]; in pandas each vector is a NumPy array."""
    values = vectors.numpy()
    if kind == "pandas":
        frame = to_native(pl.DataFrame([labels.alias(name)]), kind)
        frame["vector"] = list(values)
        return frame
    column = pl.Series("vector", values, dtype=pl.Array(pl.Float32, values.shape[1]))
    return to_native(pl.DataFrame([labels.alias(name), column]), kind)
