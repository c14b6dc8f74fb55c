"""The items most like an item: by the model's vectors, or by the users who have both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.evaluate.rerank import CoOccurrence, SimilarBy
from recgraph.evaluate.topk import Lists
from recgraph.models.base import Model
from recgraph.serve.lists import Lister
from recgraph.serve.rules import Rules
from recgraph.serve.ruling import candidates_of
from recgraph.serve.vectors import check_vectors
from recgraph.sparse.ragged import Ragged

#: without so many items or fewer lists are of the catalogue that is kept, without more of one that is made for them
_FEW = 1024
#: similarities by users that are held at a time
_CELLS = 1 << 22


def chosen(model: Model, by: SimilarBy | None) -> SimilarBy:
    """What items are compared by; None: by vectors where the model has them.

    Raises:
        ValueError: by vectors, and it has none.
    """
    by = by or ("vectors" if model.has_vectors else "co_occurrence")
    if by == "vectors":
        check_vectors(model)
    return by


def candidates_left(allow: Any, block: Any, items: IdMap) -> tuple[Tensor | None, int]:
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
        index: [B] int64 items; -1 for one that is not known, whose list is empty.
        k: at most the number of items.
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
        batch_size = max(min(batch_size, _CELLS // lister.n_items), 1)
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
