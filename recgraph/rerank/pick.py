"""Fill lists from rankings: at most n items of each value, and a re-ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.rerank.base import Gains, Reranker
from recgraph.rerank.similarity import Compare, Similarity, shared_values
from recgraph.sparse.ragged import Ragged

__all__ = ["Limit", "Reranking", "pick"]

#: bytes of the candidates of lists that are picked at the same time
_BYTES = 1 << 26


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
class Reranking:
    """A re-ranker with what it compares items by."""

    reranker: Reranker
    similarity: Similarity

    @property
    def pool(self) -> int:
        """How many items of a ranking it picks from."""
        size: int = self.reranker.config.pool
        return size

    def work(self, k: int) -> int:
        """About how many multiplications a list of ``k`` items takes."""
        compared = min(k, self.pool) + self.reranker.history
        return self.reranker.work(k) + compared * self.similarity.work(self.pool)


def pick(
    items: Tensor,
    scores: Tensor,
    k: int,
    limits: Sequence[Limit] = (),
    reranking: Reranking | None = None,
    history: Ragged | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose from rankings, one item after the other; as many rows at a time as the bound of memory allows.

    Args:
        items: [R, P] int64, ranked best first; -1 behind the last.
        scores: [R, P] float64.
        k: the most items to choose.
        limits: an item that breaks one is passed over.
        reranking: choose by it among the first ``pool`` items, and by rank below; None chooses by rank.
        history: R rows of items of the users, oldest first; None where they have none.

    Returns:
        places [R, k] int64 in the rankings, in the order of the choice, -1 behind the last; and [R] bool, the rows that
        were searched to their end without ``k`` items: a longer ranking may hold more.

    Raises:
        ValueError: the score of an item is NaN.
    """
    bad_mask = scores.isnan() & (items >= 0)
    if bool(bad_mask.any()):
        row, place = (int(at) for at in bad_mask.nonzero()[0])
        raise ValueError(f"scores: item index {int(items[row, place])} has NaN in row {row}; train or check the model")
    width = items.shape[1]
    row_bytes = 8 * 8 * width + sum(9 * limit.codes.shape[1] ** 2 * width for limit in limits)
    if reranking is not None:
        size = min(reranking.pool, width)
        row_bytes += reranking.similarity.row_bytes(size) + reranking.reranker.row_bytes(size, min(k, size))
    chosen, short = [torch.empty(0, k, dtype=torch.int64)], [torch.empty(0, dtype=torch.bool)]
    n_at_once = max(_BYTES // max(row_bytes, 1), 1)
    for start in range(0, len(items), n_at_once):
        end = min(start + n_at_once, len(items))
        own = None if history is None else history.part(start, end)
        places, short_mask = _pick(items[start:end], scores[start:end], k, limits, reranking, own)
        chosen.append(places)
        short.append(short_mask)
    return torch.cat(chosen), torch.cat(short)


def _pick(
    items: Tensor,
    scores: Tensor,
    k: int,
    limits: Sequence[Limit],
    reranking: Reranking | None,
    history: Ragged | None,
) -> tuple[Tensor, Tensor]:
    n_rows, width = items.shape
    there_mask = items >= 0
    known = items.clamp(min=0)
    held = [limit.codes[known] for limit in limits]
    counts = [torch.zeros_like(codes) for codes in held]
    rank = torch.arange(width, device=items.device, dtype=torch.float64).expand(n_rows, -1)
    growing = None if reranking is None else _Growing.of(known, there_mask, scores, k, reranking, history)
    free_mask = there_mask.clone()
    places = torch.full((n_rows, k), -1, device=items.device)
    every = torch.arange(n_rows, device=items.device)
    for step in range(min(k, width)):
        open_mask = free_mask
        for limit, codes, count in zip(limits, held, counts, strict=True):
            open_mask = open_mask & ((count < limit.most) | (codes < 0)).all(2)
        value = (-rank).masked_fill(~open_mask, float("-inf"))
        if growing is not None:
            value = growing.over(value, open_mask)
        # the first of equal values: the better ranked
        place = value.argmax(1)
        found_mask = open_mask.gather(1, place[:, None])[:, 0]
        if not bool(found_mask.any()):
            break
        places[:, step] = place.masked_fill(~found_mask, -1)
        free_mask[every[found_mask], place[found_mask]] = False
        for codes, count in zip(held, counts, strict=True):
            # a row without a choice is finished: what is counted for it is never read
            count += shared_values(codes, codes[every, place][:, None]).any(3)
        # after as many steps as the pool has items, none of it can be picked any more
        if growing is not None and step + 1 < min(k, growing.pool_mask.shape[1]):
            growing.take(known, place)
    return places, (places[:, -1] < 0) & there_mask[:, -1]


@dataclass(frozen=True)
class _Growing:
    """Lists that a re-ranker fills from the first P items of each ranking, its pool."""

    name: str
    gains: Gains
    compare: Compare
    pool_mask: Tensor

    @classmethod
    def of(
        cls, items: Tensor, there_mask: Tensor, scores: Tensor, k: int, reranking: Reranking, history: Ragged | None
    ) -> _Growing:
        size = min(reranking.pool, items.shape[1])
        pool_mask, reranker = there_mask[:, :size], reranking.reranker
        compare = reranking.similarity.of(items[:, :size])
        relevance = reranker.relevance(scores[:, :size].double(), pool_mask)
        nearest = torch.full_like(relevance, float("-inf"))
        if history is not None and reranker.history:
            last = history.last(reranker.history).to_padded(fill=-1)
            for column in last.unbind(1):
                similarity = compare(column.clamp(min=0))
                nearest = torch.where((column >= 0)[:, None], torch.maximum(nearest, similarity), nearest)
        gains = reranker.gains(relevance, nearest, min(k, size))
        return cls(type(reranker).__name__, gains, compare, pool_mask)

    def over(self, by_rank: Tensor, open_mask: Tensor) -> Tensor:
        """[R, P]: gains where the pool has an item that may be picked, else the values by rank."""
        size = self.pool_mask.shape[1]
        mine_mask = open_mask[:, :size] & self.pool_mask
        gains = self._values(mine_mask).masked_fill(~mine_mask, float("-inf"))
        value = by_rank.clone()
        has_mask = mine_mask.any(1)
        value[has_mask] = float("-inf")
        value[:, :size] = torch.where(has_mask[:, None], gains, value[:, :size])
        return value

    def _values(self, mine_mask: Tensor) -> Tensor:
        """[R, P]: the gains.

        Raises:
            ValueError: they are of another shape, or that of an item which may be picked is not finite.
        """
        values = self.gains.values
        wanted = list(mine_mask.shape)
        if not isinstance(values, Tensor) or list(values.shape) != wanted:
            what = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"reranker {self.name}: the values of its gains are {what}; give a tensor {wanted}")
        if not bool((values.isfinite() | ~mine_mask).all()):  # such an item would be picked first, or end the list
            raise ValueError(f"reranker {self.name}: a value of its gains is not finite; give each candidate a number")
        return values

    def take(self, items: Tensor, place: Tensor) -> None:
        """Tell the re-ranker what was picked."""
        inside = place.clamp(max=self.pool_mask.shape[1] - 1)
        self.gains.take(inside, self.compare(items.gather(1, inside[:, None])[:, 0]))
