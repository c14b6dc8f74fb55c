"""Fill lists from rankings: at most n items of each value, and maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Limit", "Relevance", "cosine", "jaccard", "pick"]

#: items [R, P] -> the function that gives their similarity [R, P] to that at a place [R] of each row
Similarity = Callable[[Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Limit:
    """At most ``most`` items of a list share a value.

    Attributes:
        codes: [n_items, m] int64, the values of each item, -1 behind the last.
        most: at least 1.
    """

    codes: Tensor
    most: int


@dataclass(frozen=True)
class Relevance:
    """Maximal marginal relevance, see :class:`recgraph.serve.rules.Diversity`."""

    weight: float
    pool: int
    similar: Similarity


def cosine(vectors: Tensor) -> Similarity:
    """The cosine of item vectors [n_items, D], 0 with a vector of zeros."""
    unit = torch.nn.functional.normalize(vectors.double())

    def of_items(items: Tensor) -> Callable[[Tensor], Tensor]:
        rows = unit[items]
        every = torch.arange(len(items), device=items.device)
        return lambda place: (rows @ rows[every, place][:, :, None]).squeeze(2)

    return of_items


def jaccard(columns: list[Tensor]) -> Similarity:
    """Common values over all values of two items, of several columns of codes [n_items, m]; 0 where there are none."""

    def of_items(items: Tensor) -> Callable[[Tensor], Tensor]:
        held = [codes[items] for codes in columns]
        sizes = torch.stack([(codes >= 0).sum(2) for codes in held]).sum(0)
        every = torch.arange(len(items), device=items.device)

        def similar(place: Tensor) -> Tensor:
            both = torch.zeros(items.shape, dtype=torch.float64, device=items.device)
            for codes in held:
                both += _shared(codes, codes[every, place][:, None]).any(3).sum(2)
            return both / (sizes + sizes[every, place][:, None] - both).clamp(min=1)

        return similar

    return of_items


def _shared(rows: Tensor, one: Tensor) -> Tensor:
    """[R, P, m, m]: which values of the items [R, P, m] are values of the items [R, 1, m]."""
    return (rows[..., :, None] == one[..., None, :]) & (rows >= 0)[..., :, None]


def pick(
    items: Tensor, scores: Tensor, k: int, limits: list[Limit], relevance: Relevance | None
) -> tuple[Tensor, Tensor]:
    """Choose from rankings, one item after the other.

    Args:
        items: [R, P] int64, ranked best first; -1 behind the last.
        scores: [R, P] float64.
        k: the most items to choose.
        limits: an item that breaks one is passed over.
        relevance: choose by it among the first ``max(pool, k)`` items, and by rank below; None chooses by rank.

    Returns:
        places [R, k] int64 in the rankings, in the order of the choice, -1 behind the last; and [R] bool, the rows that
        were searched to their end without ``k`` items: a longer ranking may hold more.
    """
    n_rows, width = items.shape
    there_mask = items >= 0
    known = items.clamp(min=0)
    held = [limit.codes[known] for limit in limits]
    counts = [torch.zeros_like(codes) for codes in held]
    base, pool_mask = _base(scores, there_mask, k, relevance)
    nearest = torch.zeros_like(base)
    similar = None if relevance is None else relevance.similar(known)
    free_mask = there_mask.clone()
    places = torch.full((n_rows, k), -1, device=items.device)
    every = torch.arange(n_rows, device=items.device)
    for step in range(min(k, width)):
        open_mask = free_mask
        for limit, codes, count in zip(limits, held, counts, strict=True):
            open_mask = open_mask & ((count < limit.most) | (codes < 0)).all(2)
        value = base if relevance is None else torch.where(pool_mask, base - relevance.weight * nearest, base)
        # the first of equal values: the better ranked
        place = value.masked_fill(~open_mask, float("-inf")).argmax(1)
        found_mask = open_mask.gather(1, place[:, None])[:, 0]
        if not bool(found_mask.any()):
            break
        places[:, step] = place.masked_fill(~found_mask, -1)
        free_mask[every[found_mask], place[found_mask]] = False
        for codes, count in zip(held, counts, strict=True):
            # a row without a choice is finished: what is counted for it is never read
            count += _shared(codes, codes[every, place][:, None]).any(3)
        if similar is not None:
            similarity = similar(place)
            nearest = similarity if step == 0 else torch.maximum(nearest, similarity)
    return places, (places[:, -1] < 0) & there_mask[:, -1]


def _base(scores: Tensor, there_mask: Tensor, k: int, relevance: Relevance | None) -> tuple[Tensor, Tensor]:
    """What is maximised before similarities count, [R, P] float64, and which items are in the pool."""
    n_rows, width = scores.shape
    rank = torch.arange(width, device=scores.device, dtype=torch.float64).expand(n_rows, -1)
    if relevance is None:
        return -rank, torch.zeros_like(there_mask)
    pool_mask = there_mask & (rank < max(relevance.pool, k))
    finite_mask = pool_mask & scores.isfinite()
    most = scores.masked_fill(~finite_mask, float("-inf")).amax(1, keepdim=True)
    least = scores.masked_fill(~finite_mask, float("inf")).amin(1, keepdim=True)
    span = (most - least).clamp(min=0)
    share = torch.where(span > 0, (scores - least) / torch.where(span > 0, span, 1.0), 1.0).clamp(0, 1)
    # below the pool by rank, under whatever the pool can give (at least -weight)
    return torch.where(pool_mask, (1 - relevance.weight) * share.nan_to_num(0.0), -2.0 - rank), pool_mask
