"""The ranked lists of a request, by the model, by an approximate index, under rules or of popular items; as frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor

from recgraph.data.dataframe import FrameKind, to_native
from recgraph.data.ids import IdMap
from recgraph.data.item_features import feature_rows
from recgraph.evaluate.ranking import catalogue_for, device_of, evaluating, rank
from recgraph.evaluate.rerank import Cosine
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.models.base import Model
from recgraph.serve.ann import AnnIndex
from recgraph.serve.request import Request, take
from recgraph.serve.ruling import Ruling
from recgraph.serve.vectors import encode_items

Fallback = Literal["popularity"]


@dataclass(frozen=True)
class Wanted:
    """What is wanted for each user; ``k`` is at most the number of items."""

    k: int
    exclude_seen: bool
    ruling: Ruling
    fallback: Fallback | None
    item_columns: tuple[str, ...]


class Lister:
    """Ranks items; keeps what is computed from the model's parameters, and lives until they change.

    Args:
        model: in evaluation mode.
        n_items: the size of the catalogue.
    """

    def __init__(self, model: Model, n_items: int) -> None:
        self.model, self.n_items = model, n_items
        self._catalogues: dict[str, Catalogue] = {}
        self._by_vectors: Cosine | None = None

    def unknown(self, request: Request) -> Tensor:
        """[K] int64: the rows of users of whom the model knows too little to rank for them."""
        with evaluating(self.model):
            can_rank = self.model.can_rank(request.query.to(device_of(self.model)))
        return (~can_rank).nonzero().flatten().to("cpu")

    def lists(
        self, request: Request, wanted: Wanted, empty: Tensor, popularity: Tensor | None, ann: AnnIndex | None
    ) -> Lists:
        """A list for each row of a request.

        Args:
            empty: the rows that :meth:`unknown` names.
            popularity: [n_items], the scores of these rows; needed where there are any.
            ann: an approximate index, used where no rules apply.
        """
        n_users, k, ruling = len(request.labels), wanted.k, wanted.ruling
        items = torch.full((n_users, k), -1)
        scores = torch.zeros(n_users, k, dtype=torch.float64)
        if len(empty) and popularity is not None:
            popular = Catalogue(self.n_items, k, candidates=ruling.candidates)
            counts = popularity.double().expand(len(empty), -1)
            # what such a user has done is no known item
            top = ruling.rank_queries(popular, counts, take(request.labels, empty), None)
            items[empty], scores[empty] = top.items, top.scores
        known_mask = torch.ones(n_users, dtype=torch.bool)
        known_mask[empty] = False
        known = known_mask.nonzero().flatten()
        if len(known):
            for rows, lists in self._known(request.take(known), wanted, ann):
                items[known[rows]], scores[known[rows]] = lists.items, lists.scores.double()
        return Lists(items, scores)

    def _known(self, request: Request, wanted: Wanted, ann: AnnIndex | None) -> Iterator[tuple[Tensor, Lists]]:
        """Rows of a request of users of whom enough is known, and their lists; a later list of a row replaces one."""
        query, k, ruling = request.query, wanted.k, wanted.ruling
        seen = query.history if wanted.exclude_seen else None
        rows = torch.arange(len(query))
        if ann is not None and ruling.is_plain and ruling.candidates is None:
            found = ann.rank(self.model, query, seen, k)
            yield rows, found
            # a list ends early where the index has looked at too few items
            rows = (found.items[:, -1] < 0).nonzero().flatten()
            if not len(rows):
                return
            query, seen = query.take(rows), None if seen is None else seen.take(rows)
        catalogue = self.catalogue_for(k, ruling.candidates)
        if not ruling.is_plain:
            yield from ruling.rank(self.model, catalogue, query, request.labels, seen)
            return
        convention = "exclude" if wanted.exclude_seen else "keep"
        for batch in rank(self.model, catalogue, query, seen, (convention,)):
            yield rows[batch.index], batch.lists[convention]

    def catalogue_for(self, k: int, candidates: Tensor | None = None) -> Catalogue:
        """The items, or ``candidates`` [C] of them, for lists of a length; that of all items is kept."""
        return self._made("model", partial(catalogue_for, self.model), k, candidates)

    def catalogue_of_scores(self, k: int, candidates: Tensor | None = None) -> Catalogue:
        """The same, to rank scores of all items that are no model's."""
        return self._made("scores", Catalogue, k, candidates)

    def catalogue_of_directions(self, k: int, candidates: Tensor | None = None) -> Catalogue:
        """The same, to rank items by the directions of their vectors; those without a vector are left out."""
        return self._made("directions", self._of_directions, k, candidates)

    def _of_directions(self, n_items: int, k: int, candidates: Tensor | None = None) -> Catalogue:
        unit = self.by_vectors().unit
        has_vector_mask = unit.any(1) if candidates is None else unit[candidates].any(1)
        if not bool(has_vector_mask.all()):
            candidates = (torch.arange(n_items) if candidates is None else candidates)[has_vector_mask]
        return Catalogue(n_items, k, item_vectors=unit, candidates=candidates, wide=True)

    def _made(self, name: str, make: Callable[..., Catalogue], k: int, candidates: Tensor | None) -> Catalogue:
        if candidates is not None:
            return make(self.n_items, k, candidates=candidates)
        kept = self._catalogues.get(name)  # read once: another thread may replace it
        catalogue = None if kept is None else kept.for_length(k)
        if catalogue is None:
            catalogue = self._catalogues[name] = make(self.n_items, k)
        return catalogue

    def by_vectors(self) -> Cosine:
        """The similarity of items by the model's vectors; it is kept.

        Raises:
            ValueError: the model ranks by scores alone, or a vector is not finite.
        """
        found = self._by_vectors
        if found is None:
            found = self._by_vectors = Cosine(encode_items(self.model))
        return found


def check_item_columns(item_features: pl.DataFrame | None, names: Sequence[str], own: tuple[str, str]) -> None:
    """Check that the item features have the columns, and that no other column of the answer has their names.

    Args:
        own: the names of the two columns of ids of the answer.

    Raises:
        ValueError: names the column.
    """
    taken = ("score", "rank", *own)
    there = [] if item_features is None else [name for name in item_features.columns if name not in taken]
    for place, name in enumerate(names):
        if name not in there or name in names[:place]:
            raise ValueError(f"item_columns = {name!r} must be one of {', '.join(there) or 'none, as there are none'}")


def as_frame(
    labels: pl.Series,
    lists: Lists,
    items: IdMap,
    names: tuple[str, str],
    kind: FrameKind,
    item_features: pl.DataFrame | None,
    key: str,
    item_columns: Sequence[str],
) -> Any:
    """One row an item of a list: who or what the list is for [B], the item, score, rank (from 1), the wanted columns.

    ``names`` are of the first two columns, ``key`` is the column of ids in the item features.
    """
    rows, places = (lists.items >= 0).nonzero(as_tuple=True)
    found = lists.items[rows, places]
    series = [
        take(labels, rows).alias(names[0]),
        items.ids(found).alias(names[1]),
        pl.Series("score", lists.scores[rows, places].numpy()),
        pl.Series("rank", (places + 1).numpy()),
    ]
    if item_columns and item_features is not None:
        row_of = feature_rows(items, item_features[key])[found]
        series += [item_features[name].gather(pl.Series(row_of.numpy()).replace(-1, None)) for name in item_columns]
    return to_native(pl.DataFrame(series), kind)
