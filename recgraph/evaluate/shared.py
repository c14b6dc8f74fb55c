"""Ranking over tables that are sharded: each rank scores a stretch of the catalogue's columns, and the best are merged.

A rank's columns are whole tiles of those that one process would score, with the same items in the same places, so that
every score has the bits that it has there. What is merged is exact: the best ``k`` of all columns are among the best
``k`` of each stretch, and the items above another are counted stretch by stretch.

All ranks rank the same users at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from recgraph.evaluate.select import NO_SCORE, SeenColumns, merge
from recgraph.evaluate.topk import Catalogue
from recgraph.ranks import Ranks, stacked

__all__ = ["SharedCatalogue", "SharedItems"]


@dataclass(frozen=True)
class SharedItems:
    """The item vectors of a model whose tables are sharded.

    Attributes:
        read: [n] int64 item indices -> [n, D], to be called on all ranks at once.
        device: of the vectors.
    """

    read: Callable[[Tensor], Tensor]
    device: torch.device

    @property
    def width(self) -> int:
        """D; to be asked for on all ranks at once."""
        return self.read(torch.zeros(0, dtype=torch.int64, device=self.device)).shape[1]


class SharedCatalogue(Catalogue):
    """A :class:`~recgraph.evaluate.topk.Catalogue` whose columns are divided among the ranks; all make and call it.

    Args:
        n_items, k, tie_seed, block_items: as for the base.
        items: each rank reads, and keeps, those of its columns.
    """

    def __init__(
        self, n_items: int, k: int, items: SharedItems, *, tie_seed: int = 0, block_items: int | None = None
    ) -> None:
        super().__init__(n_items, k, tie_seed=tie_seed, block_items=block_items, device=items.device)
        self._vectors = self._read(items)

    def _own_columns(self, n_chunks: int) -> tuple[int, int]:
        ranks = Ranks.here()
        #: the most tiles that a rank has
        self._most = -(-n_chunks // ranks.count)
        first, last = (n_chunks * rank // ranks.count for rank in (ranks.index, ranks.index + 1))
        return first * self._chunk, last * self._chunk

    def _read(self, items: SharedItems) -> list[Tensor]:
        """The vectors of this rank's columns; a rank that has fewer tiles takes part in reading the others'."""
        chunks = []
        for number in range(self._most):
            start = self.first + number * self._chunk
            chunk = self._as_chunk(items.read(self.order[start : min(start + self._chunk, self.last)]))
            # one of a rank without columns tells width and type, and is not scored
            if start < self.last or not number:
                chunks.append(chunk)
        return chunks

    def rank_tile(
        self, queries: Tensor, seen: SeenColumns | None, conventions: tuple[str, ...]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        if self.first < self.last:
            own_seen = None if seen is None else seen.between(self.first, self.last)
            own = super().rank_tile(queries, own_seen, conventions)
        else:
            values = queries.new_full((len(queries), self.k), NO_SCORE)
            own = dict.fromkeys(conventions, (values, torch.full_like(values, -1, dtype=torch.int64)))
        return {name: self._merged(*found) for name, found in own.items()}

    def _merged(self, values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The best of all ranks, of the best [R, k] of each."""
        values, columns = (stacked(part).transpose(0, 1).flatten(1) for part in (values, columns))
        return merge(values, columns, self.k)

    def gathered_scores(self, scores: Tensor) -> Tensor:
        of_ranks = stacked(scores)
        where = (~of_ranks.isnan()).to(torch.int8).argmax(0, keepdim=True)
        return of_ranks.gather(0, where)[0]

    def summed_counts(self, counts: Tensor) -> Tensor:
        dist.all_reduce(counts)
        return counts
