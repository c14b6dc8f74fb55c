"""Partial areas under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, within


@dataclass(frozen=True)
class PartialAUC(Metric):
    """The area over the first k irrelevant items of a list (RecTools' ``PartialAUC``).

    The *whole* list is walked, k does not cut it: each hit that f < k irrelevant items precede gains k - f; the sum is
    divided by k times the relevant items.

    Attributes:
        positives: ``all`` relevant items, or the ``first`` k hits alone, divided by k min(relevant items, k)
            (RecTools' ``PAP``).
        short: a relevant item that is not listed gains nothing (``ignore``), or a user with one whose list holds fewer
            than k irrelevant items has no value (``exclude``).
    """

    positives: Literal["all", "first"] = "all"
    short: Literal["ignore", "exclude"] = "ignore"

    name = "partial_auc"
    conventions = ("recgraph", "rectools")

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        hits = ranked.hits.double()
        misses = (1 - hits) * within(ranked, hits.shape[1])
        gained = hits * (k - misses.cumsum(1)).clamp(min=0)
        divisor = ranked.n_relevant
        if self.positives == "first":
            gained = gained * (hits.cumsum(1) <= k)
            divisor = divisor.clamp(max=k)
        values = gained.sum(1) / (divisor * k)
        if self.short == "exclude":
            values = values.masked_fill((misses.sum(1) < k) & (hits.sum(1) < ranked.n_relevant), float("nan"))
        return values
