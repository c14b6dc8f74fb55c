"""Area under the ROC curve of a user's ranking.

Partial areas under the ROC curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, Places, RankedHits, within


class AUC(Metric):
    """The share of pairs of a relevant and another candidate in which the relevant one stands higher.

    All candidates are ranked, there is no cut-off, and equal scores count one half. A relevant item that is no
    candidate loses every pair; a user without other candidates has no value.

    Conventions: ``recbole`` (``GAUC``) weighs users by their relevant items in the mean; under ``cornac`` equal scores
    count 0; ``replay`` and ``torchmetrics`` look at the first k places alone (relevant items that are not listed cost
    nothing) and are 0 without a hit; where all of them are hits ``replay`` gives 1, ``torchmetrics`` 0.
    """

    name = "auc"
    conventions = ("recgraph", "recbole", "cornac", "replay", "torchmetrics")

    @property
    def expects(self) -> bool:  # type: ignore[override]
        return not self.cut and self.convention != "cornac"

    @property
    def cut(self) -> bool:
        return self.convention in ("replay", "torchmetrics")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.cut else frozenset({"places"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.cut:
            scores = ranked.scores if self.convention == "torchmetrics" else None
            return _in_list(ranked, scores, k, all_hits=1.0 if self.convention == "replay" else 0.0)
        assert ranked.places is not None
        return _of_all(ranked.places, ranked.n_relevant, strict=self.convention == "cornac")

    def mean(self, values: Tensor, ranked: RankedHits) -> float:
        if self.convention != "recbole":
            return super().mean(values, ranked)
        has = ~values.isnan()
        weights = ranked.n_relevant[has].double()
        return float((values[has] * weights).sum() / weights.sum())


def _of_all(places: Places, n_relevant: Tensor, *, strict: bool) -> Tensor:
    rows, ok = places.above.rows, places.reachable.double()
    other = places.above.values - places.n_better()
    tied = places.equal - places.n_tied()
    lost = (other + tied * (1.0 if strict else 0.5)) * ok
    total = torch.zeros(places.above.n_rows, dtype=torch.float64, device=lost.device)
    found = total.clone().index_add_(0, rows, ok)
    n_other = places.n_candidates - found
    return (found - total.index_add_(0, rows, lost) / n_other) / n_relevant


def _in_list(ranked: RankedHits, scores: Tensor | None, k: int, *, all_hits: float) -> Tensor:
    hits = ranked.hits[:, :k].double()
    misses = (1 - hits) * within(ranked, k)
    group = torch.arange(k, device=hits.device).expand_as(hits)
    if scores is not None:
        new = scores[:, 1:k] != scores[:, : k - 1]
        group = torch.nn.functional.pad(new, (1, 0)).long().cumsum(1)
    in_group = torch.zeros_like(hits).scatter_add_(1, group, misses)
    above = in_group.cumsum(1) - in_group
    # without scores a group is one place, which holds a hit or a miss
    wrong = (hits * (above + in_group / 2).gather(1, group)).sum(1)
    n_hits, n_misses = hits.sum(1), misses.sum(1)
    values = 1 - wrong / (n_hits * n_misses)
    return values.masked_fill(n_misses == 0, all_hits).masked_fill(n_hits == 0, 0.0)


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
