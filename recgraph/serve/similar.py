"""The items most like an item: by the model's vectors, or by the users who have both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.rerank.similarity import CoOccurrence, Cosine, SimilarBy
from recgraph.serve.answer import answer, check_item_columns, names_of_similar
from recgraph.serve.memory import check_large
from recgraph.serve.request import given_ids, is_all, take
from recgraph.serve.rules import Rules
from recgraph.serve.ruling import candidates_of
from recgraph.serve.stored import Stored
from recgraph.serve.vectors import check_vectors
from recgraph.sparse.ragged import Ragged

__all__ = ["similar_items"]

#: of a place of a list: its item and its score twice, and the columns of the answer
_OF_PLACE = 64
#: similarities by users that are held at a time
_CELLS = 1 << 24


def similar_items(
    recommender: Stored,
    in_common: CoOccurrence,
    vectors: Callable[[], Cosine],
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
        in_common: the similarity of items by users in common.
        vectors: gives that by the model's vectors.
        items, k, by, allow, block, item_columns, batch_size: of ``Recommender.similar``.
    """
    for name, value in (("k", k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")
    names = names_of_similar(recommender.columns, item_columns)
    check_item_columns(recommender.item_features, item_columns, names)
    by = by or ("vectors" if recommender.model.has_vectors else "co_occurrence")
    if by == "vectors":
        check_vectors(recommender.model)
    k, n_items = min(k, len(recommender.items)), len(recommender.items)
    if is_all(items):
        index, kind = torch.arange(n_items), recommender.kind
        labels = recommender.items.ids(index)
    else:
        labels, kind = given_ids(items, recommender.kind, "items")
        if not len(labels):
            raise ValueError("items is empty: name at least one")
        index = torch.from_numpy(recommender.items.index(labels))
        if len(unknown := (index < 0).nonzero().flatten()):
            raise ValueError(
                f"items: {take(labels, unknown[:1])[0]!r} is not known to the model ({len(unknown):,} of "
                f"{len(labels):,} are not); name items of the training data"
            )
    check_large(_OF_PLACE * k * len(index), f"{k:,} items like each of {len(index):,}", "ask for some items at a time")
    candidates, n_unknown = candidates_of(
        Rules.of({"allow": allow, "block": () if block is None else block}), recommender.items
    )
    if by == "vectors":
        lists = _by_vectors(vectors().unit.double(), index, k, candidates, batch_size)
    else:
        lists = _by_users(in_common, index, k, candidates, batch_size)
    features, key = recommender.item_features, recommender.columns.item
    return answer(labels, lists, recommender.items, names, kind, features, key, item_columns), n_unknown


def _by_vectors(unit: Tensor, index: Tensor, k: int, candidates: Tensor | None, batch_size: int) -> Lists:
    """Lists of items by directions: products of two are exact in float64, so that equal vectors are equally similar."""
    has_vector_mask = unit.any(1)
    among = torch.arange(len(unit)) if candidates is None else candidates
    catalogue = Catalogue(len(unit), k, item_vectors=unit, candidates=among[has_vector_mask[among]])
    asked = has_vector_mask[index].nonzero().flatten()
    parts = [_ranked(catalogue, unit[rows], rows) for rows in torch.split(index[asked], batch_size) if len(rows)]
    return _spread(parts, asked, len(index), k)


def _by_users(likeness: CoOccurrence, index: Tensor, k: int, candidates: Tensor | None, batch_size: int) -> Lists:
    """Lists of items by the cosine of the sets of users who have two."""
    n_items = likeness.n_items
    catalogue = Catalogue(n_items, k, candidates=candidates)
    parts = []
    for rows in torch.split(index, max(min(batch_size, _CELLS // n_items), 1)):
        lists = _ranked(catalogue, likeness.rows(rows), rows)
        parts.append(Lists(lists.items.masked_fill(lists.scores <= 0, -1), lists.scores))
    return _spread(parts, torch.arange(len(index)), len(index), k)


def _ranked(catalogue: Catalogue, queries: Tensor, items: Tensor) -> Lists:
    """The lists of some items, without the items themselves."""
    itself = Ragged.from_lengths(items, torch.ones_like(items))
    return catalogue.rank(queries, itself, ("exclude",))["exclude"]


def _spread(parts: Sequence[Lists], rows: Tensor, n_rows: int, k: int) -> Lists:
    """Lists of some rows among ``n_rows``; the others are empty."""
    items, scores = torch.full((n_rows, k), -1), torch.zeros(n_rows, k, dtype=torch.float64)
    if parts:
        found = Lists.cat(list(parts))
        items[rows], scores[rows] = found.items, found.scores
    return Lists(items, scores)
