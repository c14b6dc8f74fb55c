"""Areas under the ROC curve: of a user's whole ranking, of a list, and of the top of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nan

from recgraph.evaluate.metrics.base import Metric, RankedHits, RelevantRanks, within


@dataclass(frozen=True)
class AUC(Metric):
    """The share of pairs of a relevant and another candidate in which the relevant one stands higher.

    All candidates are ranked and there is no cut-off. A relevant item that is no candidate loses every pair; a user
    without other candidates has no value.

    Attributes:
        ties: equal scores count one ``half``, by default; they ``lose`` (Cornac); or, within a list, its ``order``
            decides (RePlay).
        within_list: look at the first k ranks alone; relevant items that are not listed cost nothing, and a list
            without a hit is 0 (RePlay, TorchMetrics).
        all_hits: the value of a list of hits alone (1 in RePlay).
        weigh_users: by their relevant items in the mean (RecBole's ``GAUC``).
    """

    ties: Literal["half", "lose", "order"] = "half"
    within_list: bool = False
    all_hits: float = 0.0
    weigh_users: bool = False

    name = "auc"

    @property
    def expects(self) -> bool:
        return not self.within_list and self.ties == "half"

    @property
    def cut(self) -> bool:
        return self.within_list

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.within_list else frozenset({"relevant_ranks"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.within_list:
            return _in_list(ranked, None if self.ties == "order" else ranked.scores, k, all_hits=self.all_hits)
        assert ranked.relevant_ranks is not None
        return _of_all(ranked.relevant_ranks, ranked.n_relevant, tied_loss=0.5 if self.ties == "half" else 1.0)

    def mean(self, values: Tensor, ranked: RankedHits) -> float:
        if not self.weigh_users:
            return super().mean(values, ranked)
        has = ~values.isnan()
        weights = ranked.n_relevant[has].double()
        return float((values[has] * weights).sum() / weights.sum())


def _of_all(relevant: RelevantRanks, n_relevant: Tensor, *, tied_loss: float) -> Tensor:
    rows, ok = relevant.above.rows, relevant.reachable.double()
    other = relevant.above.values - relevant.n_better()
    tied = relevant.equal - relevant.n_tied()
    lost = (other + tied * tied_loss) * ok
    total = torch.zeros(relevant.above.n_rows, dtype=torch.float64, device=lost.device)
    found = total.clone().index_add_(0, rows, ok)
    n_other = relevant.n_candidates - found
    return (found - total.index_add_(0, rows, lost) / n_other) / n_relevant


def _in_list(ranked: RankedHits, scores: Tensor | None, k: int, *, all_hits: float) -> Tensor:
    hits = ranked.hits[:, :k].double()
    misses = (1 - hits) * within(ranked, k)
    group = torch.arange(hits.shape[1], device=hits.device).expand_as(hits)
    if scores is not None:
        listed = scores[:, :k]
        new = listed[:, 1:] != listed[:, :-1]
        group = torch.nn.functional.pad(new, (1, 0)).long().cumsum(1)
    in_group = torch.zeros_like(hits).scatter_add_(1, group, misses)
    above = in_group.cumsum(1) - in_group
    # without scores a group is one rank, which holds a hit or a miss
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
    reads_whole_lists = True

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
            values = values.masked_fill((misses.sum(1) < k) & (hits.sum(1) < ranked.n_relevant), nan)
        return values
