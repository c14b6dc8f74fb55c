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
        raise ValueError(
            f"{type(model).__name__} ranks by scores alone and has no vectors of users or items"
        )


def encode_items(model: Model) -> Tensor:
    """[n_items, D] float32, on the host."""
    check_vectors(model)
    with evaluating(model):
        return model.encode_items().detach().float().to("cpu")


def encode_users(model: Model, query: Query) -> Tensor:
    """[B, D] what a ranking of the users reads, in the query's order; of a model without vectors
    the scores.
    """
    encode, device = model.encode_users if model.has_vectors else model.score, device_of(model)
    with evaluating(model):
        if len(query) == 1:
            return encode(query.to(device))
        order = query.history.lengths.argsort(stable=True)
        parts = [encode(query.take(rows).to(device)) for rows in torch.split(order, GROUP)]
        return torch.cat(parts)[order.argsort().to(device)]


def vector_frame(name: str, labels: pl.Series, vectors: Tensor, kind: FrameKind) -> Any:
    """A frame of ids [N] in the column ``name`` and of vectors [N, D]; in pandas each vector is a
    NumPy array.
    """
    values = vectors.detach().float().numpy(force=True)
    if kind == "pandas":
        frame = to_native(pl.DataFrame([labels.alias(name)]), kind)
        frame["vector"] = list(values)
        return frame
    column = pl.Series("vector", values, dtype=pl.Array(pl.Float32, values.shape[1]))
    return to_native(pl.DataFrame([labels.alias(name), column]), kind)
