"""Area under the ROC curve of a user's ranking."""

from __future__ import annotations

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
