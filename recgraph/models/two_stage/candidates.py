"""The candidates of several models for a block of users, and the list in which a second stage puts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from recgraph.data.samples import Query

__all__ = ["Candidates", "Found", "above_the_rest", "best_of"]


@dataclass(frozen=True)
class Found:
    """The candidates of one model.

    Attributes:
        keys: [C] int64, ``row * n_items + item``.
        scores: [C], the model's.
        ranks: [C] float, 1 / place in the row's list.
    """

    keys: Tensor
    scores: Tensor
    ranks: Tensor

    def shifted(self, rows: int, n_items: int) -> Found:
        """The same where so many rows lie before them."""
        return Found(self.keys + rows * n_items, self.scores, self.ranks)

    @classmethod
    def cat(cls, parts: Iterable[Found]) -> Self:
        keys, scores, ranks = zip(*((part.keys, part.scores, part.ranks) for part in parts), strict=True)
        return cls(torch.cat(keys), torch.cat(scores), torch.cat(ranks))


def best_of(scores: Tensor, query: Query, k: int, able: Tensor, repeats: bool) -> Found:
    """The ``k`` best items of each row.

    Args:
        scores: [B, n_items].
        able: [B] bool, the rows that the model can rank for; the others get no candidate.
        repeats: whether items of the history may be candidates.

    Raises:
        ValueError: a score is NaN.
    """
    n_rows, n_items = scores.shape
    open_to = scores.clone()
    if not repeats:
        open_to[query.history.rows, query.history.values] = -torch.inf
    open_to[~able] = -torch.inf
    values, items = open_to.topk(min(k, n_items), dim=1)
    # NaN is above all numbers
    if bool(values[:, :1].isnan().any()):
        raise ValueError("it scores items with NaN; train or check it")
    there = values > -torch.inf
    first = n_items * torch.arange(n_rows, device=scores.device)[:, None]
    ranks = 1 / torch.arange(1, values.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return Found((first + items)[there], values[there], ranks.expand_as(values)[there])


@dataclass(frozen=True)
class Candidates:
    """The union of the candidates of M models.

    Attributes:
        keys: [U] int64, ``row * n_items + item``, ascending.
        scores: [U, M], NaN where an item is no candidate of a model.
        ranks: [U, M], 1 / place in the model's list; 0 where it is none.
    """

    keys: Tensor
    scores: Tensor
    ranks: Tensor

    @classmethod
    def union(cls, found: list[Found]) -> Self:
        keys = torch.unique(torch.cat([each.keys for each in found]))
        scores = found[0].scores.new_full((len(keys), len(found)), torch.nan)
        ranks = torch.zeros_like(scores)
        for column, each in enumerate(found):
            at = torch.searchsorted(keys, each.keys)
            scores[at, column], ranks[at, column] = each.scores.to(scores.dtype), each.ranks.to(scores.dtype)
        return cls(keys, scores, ranks)

    def take(self, index: Tensor) -> Candidates:
        """Some of them ([K] int64, or a mask)."""
        return Candidates(self.keys[index], self.scores[index], self.ranks[index])


def above_the_rest(first: Tensor, keys: Tensor, second: Tensor) -> Tensor:
    """[B, n_items]: the scores of the second stage for candidates; below them all other items, as the first model
    orders them.

    Args:
        first: [B, n_items], scores of the first model.
        keys: [U] int64, of the candidates.
        second: [U].
    """
    n_items = first.shape[1]
    rows = keys // n_items
    lowest = first.new_full((len(first),), torch.inf)
    lowest = lowest.scatter_reduce(0, rows, second.to(first.dtype), "amin")[:, None]
    lowest = torch.where(lowest.isinf(), 0.0, lowest)
    low, high = first.amin(1, keepdim=True), first.amax(1, keepdim=True)
    # between -2 and -1, in units that scores as large as the lowest one can tell apart
    place = (first - low) / (high - low).clamp(min=torch.finfo(first.dtype).tiny) - 2
    scores = (lowest + lowest.abs().clamp(min=1) * place).contiguous()
    scores.view(-1)[keys] = second.to(first.dtype)
    return scores
