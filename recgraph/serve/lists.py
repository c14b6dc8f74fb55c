"""The ranked lists of users and of items: by the model, by an approximate index, under rules, or of
popular items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.evaluate.ranking import catalogue_for, device_of, evaluating, rank
from recgraph.evaluate.rerank import CoOccurrence, Cosine, SimilarBy
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.models.base import Model
from recgraph.serve.ann import AnnIndex
from recgraph.serve.rules import ResolvedRules
from recgraph.serve.vectors import encode_items, encode_users
from recgraph.sparse.ragged import Ragged

Fallback = Literal["popularity"]
#: users of a tile of scores, where few are ranked
TILES = (16, 32, 64)
#: so few items that similar lists may not have are left out row by row, more by a catalogue of
#: their own
_FEW = 1024
#: similarities by users in common that are in memory at a time
_CELLS = 1 << 22


@dataclass(frozen=True)
class ListOptions:
    """What lists are of; ``k`` is at most the number of items."""

    k: int
    exclude_seen: bool
    rules: ResolvedRules
    fallback: Fallback | None = None
    item_columns: tuple[str, ...] = ()

    def excluded(self, query: Query) -> Ragged | None:
        """B rows of items that are left out of the lists of a query; None: no items."""
        if self.exclude_seen:
            return query.history
        return None


class Lister:
    """Ranks the items of a model; caches what is computed from its parameters, and lives until they
    change.
    """

    def __init__(self, model: Model, n_items: int) -> None:
        self.model, self.n_items = model, n_items
        self._catalogues: dict[str, Catalogue] = {}

    def unknown(self, query: Query) -> Tensor:
        """[K] int64: the rows of users of whom the model knows too little to rank for them."""
        with evaluating(self.model):
            known_mask = self.model.can_rank(query.to(device_of(self.model)))
        return (~known_mask).nonzero().flatten().to("cpu")

    def lists(
        self,
        query: Query,
        options: ListOptions,
        unknown: Tensor,
        popularity: Callable[[], Tensor],
        ann: AnnIndex | None,
    ) -> Lists:
        """A list for each row of a query, by an approximate index where no rules apply; the scores
        of the rows that :meth:`unknown` names are the ``popularity`` [n_items]."""
        n_users = len(query)
        items = torch.full((n_users, options.k), -1)
        scores = torch.zeros(n_users, options.k, dtype=torch.float64)
        if len(unknown):
            popular = Catalogue(self.n_items, options.k, candidates=options.rules.candidates)
            counts = popularity().double().expand(len(unknown), -1)
            # what such a user has done is no known item
            top = options.rules.rank_queries(popular, counts, None)
            items[unknown], scores[unknown] = top.items, top.scores
        known_mask = torch.ones(n_users, dtype=torch.bool)
        known_mask[unknown] = False
        known = known_mask.nonzero().flatten()
        if len(known):
            for rows, lists in self._known(query.take(known), options, ann):
                items[known[rows]], scores[known[rows]] = lists.items, lists.scores.double()
        return Lists(items, scores)

    def _known(
        self, query: Query, options: ListOptions, ann: AnnIndex | None
    ) -> Iterator[tuple[Tensor, Lists]]:
        """Rows of a query of users of whom enough is known, and their lists; a later list of a row
        replaces one.
        """
        rules = options.rules
        rows = torch.arange(len(query))
        if ann is not None and rules.is_plain and rules.candidates is None:
            near = ann.rank(self.model, query, options.excluded(query), options.k)
            yield rows, near
            # a list ends early where the index has looked at too few items
            rows = (near.items[:, -1] < 0).nonzero().flatten()
            if not len(rows):
                return
            query = query.take(rows)
        excluded = options.excluded(query)
        catalogue = self.catalogue_for(options.k, rules.candidates)
        if not rules.is_plain:
            yield from rules.rank(self.model, catalogue, query, excluded)
            return
        for batch in rank(self.model, catalogue, query, excluded, ("exclude",)):
            yield rows[batch.index], batch.lists["exclude"]

    @torch.no_grad()
    def rank_together(self, queries: Sequence[Query], k: int, exclude_seen: bool) -> list[Lists]:
        """The lists of several requests without rules, each with the items and scores of
        :meth:`lists` alone: each is encoded by itself, as who shares a batch may change a model's
        rounding, but not that of a catalogue's tiles."""
        catalogue = self.catalogue_for(k)
        vectors = torch.cat([encode_users(self.model, query) for query in queries])
        for rows in TILES:
            if len(vectors) <= rows < catalogue.rows:
                catalogue = catalogue.in_tiles_of(rows) or catalogue
                break
        seen = None
        if exclude_seen:
            seen = Ragged.cat([query.history for query in queries]).to(catalogue.device)
        users = torch.cat([query.users for query in queries])
        lists = catalogue.rank(vectors, seen, ("exclude",), users)["exclude"]
        sizes = list(map(len, queries))
        items = lists.items.to("cpu").split(sizes)  # type: ignore[no-untyped-call]
        scores = lists.scores.to("cpu").double().split(sizes)  # type: ignore[no-untyped-call]
        return list(map(Lists, items, scores))

    def similar(
        self,
        in_common: CoOccurrence,
        by: SimilarBy,
        index: Tensor,
        k: int,
        candidates: Tensor | None,
        batch_size: int = 1024,
    ) -> Lists:
        """The items (of ``candidates`` [C], if given) most like each of ``index`` [B]; none for -1,
        an unknown one.
        """
        items = torch.full((len(index), k), -1)
        scores = torch.zeros(len(index), k, dtype=torch.float64)
        closed = torch.empty(0, dtype=torch.int64)
        if candidates is not None and self.n_items - len(candidates) <= _FEW:
            closed_mask = torch.ones(self.n_items, dtype=torch.bool)
            closed_mask[candidates] = False
            closed = closed_mask.nonzero().flatten()
            candidates = None
        places = (index >= 0).nonzero().flatten()
        if by == "vectors":
            unit = self.by_vectors.unit
            places = places[unit[index[places]].any(1)]
            catalogue = self._cached("directions", self._of_directions, k, candidates)
        else:
            catalogue = self._cached("scores", Catalogue, k, candidates)
            batch_size = max(min(batch_size, _CELLS // self.n_items), 1)
        if not len(places) or not len(catalogue.order):
            return Lists(items, scores)  # no vector that has a list, or may be in one
        for batch in torch.split(places, batch_size):
            rows = index[batch]
            queries = unit[rows] if by == "vectors" else in_common.rows(rows)
            # no item is in its own list
            excluded = torch.cat([rows[:, None], closed.expand(len(rows), -1)], 1)
            lengths = torch.full((len(rows),), excluded.shape[1])
            lists = catalogue.rank(
                queries, Ragged.from_lengths(excluded.flatten(), lengths), ("exclude",)
            )["exclude"]
            items[batch], scores[batch] = lists.items, lists.scores
        if by == "co_occurrence":
            items = items.masked_fill(scores <= 0, -1)
        return Lists(items, scores)

    def catalogue_for(self, k: int, candidates: Tensor | None = None) -> Catalogue:
        """The items, or ``candidates`` [C] of them, for lists of a length; that of all items is
        cached.
        """
        return self._cached("model", partial(catalogue_for, self.model), k, candidates)

    def _of_directions(self, n_items: int, k: int, candidates: Tensor | None = None) -> Catalogue:
        """The items that have a vector, to be ranked by its direction."""
        unit = self.by_vectors.unit
        if candidates is None:
            candidates = torch.arange(n_items)
        candidates = candidates[unit[candidates].any(1)]
        return Catalogue(n_items, k, item_vectors=unit, candidates=candidates, wide=True)

    def _cached(
        self, name: str, make: Callable[..., Catalogue], k: int, candidates: Tensor | None
    ) -> Catalogue:
        if candidates is not None:
            return make(self.n_items, k, candidates=candidates)
        cached = self._catalogues.get(name)  # read once: another thread may replace it
        catalogue = None
        if cached is not None:
            catalogue = cached.for_length(k)
        if catalogue is None:
            catalogue = self._catalogues[name] = make(self.n_items, k)
        return catalogue

    @cached_property
    def by_vectors(self) -> Cosine:
        """The similarity of items by the model's vectors."""
        return Cosine(encode_items(self.model))
