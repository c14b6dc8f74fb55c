"""The items most like an item: by the model's vectors, or by the users who have both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.evaluate.rerank import CoOccurrence, SimilarBy
from recgraph.evaluate.topk import Lists
from recgraph.models.base import Model
from recgraph.serve.answer import answer, check_item_columns, names_of_similar
from recgraph.serve.checks import check_positive
from recgraph.serve.lists import Lister
from recgraph.serve.memory import CELLS, check_large
from recgraph.serve.request import as_labels, given_ids, is_all, take
from recgraph.serve.rules import Rules
from recgraph.serve.ruling import candidates_of
from recgraph.serve.stored import Stored
from recgraph.serve.vectors import check_vectors
from recgraph.sparse.ragged import Ragged

__all__ = ["chosen", "items_left", "lists_like", "similar_items"]

#: of a place of a list: its item and its score twice, and the columns of the answer
_OF_PLACE = 64
#: without so many items or fewer lists are of the catalogue that is kept, without more of one that is made for them
_FEW = 1024


def similar_items(
    recommender: Stored,
    lister: Lister,
    in_common: CoOccurrence,
    items: Any,
    k: int,
    by: SimilarBy | None,
    allow: Any,
    block: Any,
    item_columns: Sequence[str],
    batch_size: int,
) -> tuple[Any, int]:
    """The items most like each, as a frame, and how many ids of ``allow`` and ``block`` are not known.

    Args:
        lister: of the recommender's model.
        in_common: the similarity of items by users in common.
        items, k, by, allow, block, item_columns, batch_size: of ``Recommender.similar``.
    """
    check_positive(k=k, batch_size=batch_size)
    names = names_of_similar(recommender.columns, item_columns)
    check_item_columns(recommender.item_features, item_columns, names)
    by = chosen(recommender.model, by)
    k, n_items = min(k, len(recommender.items)), len(recommender.items)
    if is_all(items):
        index, kind = torch.arange(n_items), recommender.kind
        labels = recommender.items.ids(index)
    else:
        labels, kind = given_ids(items, recommender.kind, "items")
        if not len(labels):
            raise ValueError("items is empty: name at least one")
        index = torch.from_numpy(recommender.items.index(labels, "items"))
        if len(unknown := (index < 0).nonzero().flatten()):
            raise ValueError(
                f"items: {take(labels, unknown[:1])[0]!r} is not known to the model ({len(unknown):,} of "
                f"{len(labels):,} are not); name items of the training data"
            )
        labels = as_labels(labels, recommender.items.as_uuid)
    check_large(_OF_PLACE * k * len(index), f"{k:,} items like each of {len(index):,}", "ask for some items at a time")
    candidates, n_unknown = items_left(allow, block, recommender.items)
    lists = lists_like(lister, in_common, by, index, k, candidates, batch_size)
    features, key = recommender.item_features, recommender.columns.item
    return answer(labels, lists, recommender.items, names, kind, features, key, item_columns), n_unknown


def chosen(model: Model, by: SimilarBy | None) -> SimilarBy:
    """What items are compared by; None: by vectors where the model has them.

    Raises:
        ValueError: by vectors, and it has none.
    """
    by = by or ("vectors" if model.has_vectors else "co_occurrence")
    if by == "vectors":
        check_vectors(model)
    return by


def items_left(allow: Any, block: Any, items: IdMap) -> tuple[Tensor | None, int]:
    """The allowed items that are not blocked, None for all; and how many ids are not known.

    Raises:
        ValueError: an id is of another type, or no item is left.
    """
    return candidates_of(Rules.of({"allow": allow, "block": () if block is None else block}), items)


def lists_like(
    lister: Lister,
    in_common: CoOccurrence,
    by: SimilarBy,
    index: Tensor,
    k: int,
    candidates: Tensor | None,
    batch_size: int = 1024,
) -> Lists:
    """The items most like each of some; nothing alters a list but what is asked for it.

    Args:
        in_common: the similarity of items by users in common.
        index: [B] int64 items; -1 for one that is not known, whose list is empty.
        k, by, batch_size: of ``Recommender.similar``, checked; ``k`` is at most the number of items.
        candidates: [C] items that lists may have; None for all.
    """
    items, scores = torch.full((len(index), k), -1), torch.zeros(len(index), k, dtype=torch.float64)
    closed = None
    if candidates is not None and lister.n_items - len(candidates) <= _FEW:
        open_mask = torch.zeros(lister.n_items, dtype=torch.bool)
        open_mask[candidates] = True
        closed, candidates = (~open_mask).nonzero().flatten(), None
    places = (index >= 0).nonzero().flatten()
    if by == "vectors":
        unit = lister.by_vectors().unit
        places = places[unit[index[places]].any(1)]
        if not len(places) or (candidates is not None and not bool(unit[candidates].any())):
            return Lists(items, scores)  # no vector that may be in a list
        catalogue = lister.catalogue_of_directions(k, candidates)
    else:
        catalogue = lister.catalogue_of_scores(k, candidates)
        batch_size = max(min(batch_size, CELLS // lister.n_items), 1)
    for start in range(0, len(places), batch_size):
        here = places[start : start + batch_size]
        rows = index[here]
        queries = unit[rows] if by == "vectors" else in_common.rows(rows)
        lists = catalogue.rank(queries, _barred(rows, closed), ("exclude",))["exclude"]
        if by == "co_occurrence":
            lists = Lists(lists.items.masked_fill(lists.scores <= 0, -1), lists.scores)
        items[here], scores[here] = lists.items, lists.scores
    return Lists(items, scores)


def _barred(items: Tensor, closed: Tensor | None) -> Ragged:
    """For each item the items that its list may not have: itself, and those that are closed to all."""
    barred = items[:, None]
    if closed is not None:
        barred = torch.cat([barred, closed.expand(len(items), -1)], 1)
    return Ragged.from_lengths(barred.flatten(), torch.full((len(items),), barred.shape[1]))
