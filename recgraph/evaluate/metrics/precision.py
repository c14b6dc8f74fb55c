"""Precision: the share of the list that is relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits


@dataclass(frozen=True)
class Precision(Metric):
    """hits in the first k / k.

    Short lists are divided by k, too; under ``lenskit`` by their length, and an empty list has no value.

    Attributes:
        divide_by: ``k``, the ``listed`` items (also what Cornac does without a cut-off), the ``relevant`` items but
            at most k (RecTools' ``r_precision=True``, which is not R-precision), or the ``catalogue`` but at most
            k (TorchMetrics' ``adaptive_k=True``); by default that of the convention.
    """

    divide_by: Literal["k", "listed", "relevant", "catalogue"] | None = None

    name = "precision"
    expects = True
    wants_positive_scores = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"n_items"} if self.divide_by == "catalogue" else ())

    def without_truth(self) -> float | None:
        return None if self.convention == "lenskit" else super().without_truth()

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        found = ranked.hits[:, :k].sum(1).double()
        divide_by = self.divide_by or ("listed" if self.convention == "lenskit" else "k")
        if divide_by == "listed":
            return found / ranked.n_listed(k)
        if divide_by == "relevant":
            return found / ranked.n_relevant.clamp(max=k)
        if divide_by == "catalogue":
            assert ranked.facts is not None
            return found / min(k, ranked.facts.n_items)
        return found / k
