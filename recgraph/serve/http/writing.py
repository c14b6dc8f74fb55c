"""The bodies of answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.data.item_columns import feature_rows
from recgraph.evaluate.topk import Lists
from recgraph.serve.http.jsonids import JsonIds, plain
from recgraph.serve.recommender import Recommender

__all__ = ["Answer", "Writer"]


@dataclass(frozen=True)
class Answer:
    """The body of an answer, and what is counted of it."""

    body: bytes
    n_lists: int
    n_unknown_items: int = 0
    n_unknown_users: int = 0
    n_fallbacks: int = 0


class Writer:
    """Writes answers as JSON.

    Args:
        recommender: its item features are shown.
        items: its ids.
        identity: names the bundle.
    """

    def __init__(self, recommender: Recommender, items: JsonIds, identity: str) -> None:
        self._recommender, self._items, self._identity = recommender, items, identity

    @cached_property
    def _feature_rows(self) -> Tensor:
        features = self._recommender.item_features
        assert features is not None
        return feature_rows(self._recommender.items, features[self._recommender.columns.item])

    def entries(self, ranked: Lists, item_columns: tuple[str, ...]) -> list[list[dict[str, Any]]]:
        """For each list its items, best first, with score, rank and the wanted columns."""
        rows, places = (ranked.items >= 0).nonzero(as_tuple=True)
        index = ranked.items[rows, places]
        columns: dict[str, list[Any]] = {
            "item": self._items.write(index.tolist()),
            "score": [score if score - score == 0 else None for score in ranked.scores[rows, places].tolist()],
            "rank": (places + 1).tolist(),
        }
        features = self._recommender.item_features
        if item_columns and features is not None:
            at = pl.Series(self._feature_rows[index].numpy()).replace(-1, None)
            columns |= {name: plain(features[name].gather(at)) for name in item_columns}
        entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        ends = torch.bincount(rows, minlength=len(ranked.items)).cumsum(0).tolist()
        return [entries[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def body(self, results: list[dict[str, Any]]) -> bytes:
        """The body with the results of a request."""
        made = {"bundle": self._identity, "results": results}
        return json.dumps(made, ensure_ascii=False, allow_nan=False).encode()
