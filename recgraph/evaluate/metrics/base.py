"""What a metric is: per-user values from the hits of ranked lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class RankedHits:
    """Ranked lists as metrics see them. Users have at least one relevant item.

    Attributes:
        hits: [U, K] bool, whether the item at each rank is relevant; a place past the end of a short list is
            a miss.
        n_relevant: [U] int64, at least 1; relevant items that cannot be recommended count.
        gains: [U, K] float64, the grade of the item at each rank, 0 for a miss; None where grades are binary.
        ideal_gains: [U, K] float64, the user's grades in descending order, padded with 0; None where binary.
    """

    hits: Tensor
    n_relevant: Tensor
    gains: Tensor | None = None
    ideal_gains: Tensor | None = None

    def __len__(self) -> int:
        return self.hits.shape[0]

    def rows(self, start: int, end: int) -> RankedHits:
        """Users ``start`` to ``end``."""
        parts = (self.hits, self.n_relevant, self.gains, self.ideal_gains)
        hits, n_relevant, gains, ideal = (None if part is None else part[start:end] for part in parts)
        assert hits is not None
        assert n_relevant is not None
        return RankedHits(hits, n_relevant, gains, ideal)


class Metric:
    """Base of all metrics. A subclass sets ``name`` and fills :meth:`compute`; values lie in [0, 1]."""

    #: as it is written before ``@``, e.g. ``hit_rate``
    name: ClassVar[str]

    def __call__(self, ranked: RankedHits, k: int) -> Tensor:
        """[U] float64: the value of each user at cut-off ``k``.

        Raises:
            ValueError: ``k`` is below 1 or longer than the lists.
        """
        if not 1 <= k <= ranked.hits.shape[1]:
            raise ValueError(f"k = {k} must lie between 1 and the length of the lists, {ranked.hits.shape[1]}")
        return self.compute(ranked, k)

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        """[U] float64."""
        raise TypeError(f"{type(self).__name__} must define compute(ranked, k)")


def ranks(k: int, like: Tensor) -> Tensor:
    """[k] float64: 1, 2, ... k."""
    return torch.arange(1, k + 1, dtype=torch.float64, device=like.device)
