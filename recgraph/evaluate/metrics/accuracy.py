"""Metrics of where the relevant items stand: counts of hits, hits weighed by rank, and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, first_hit, ranks


class HitRate(Metric):
    """1 if a relevant item is among the first k, else 0."""

    name = "hit_rate"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits.any(1).double() if ranked.ties is None else first_hit(ranked.ties).sum(1)


class Precision(Metric):
    """hits in the first k / k. Short lists are divided by k, too."""

    name = "precision"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits.sum(1).double() / k


class Recall(Metric):
    """hits in the first k / relevant items. With more than k relevant items the best possible value is below 1."""

    name = "recall"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits.sum(1).double() / ranked.n_relevant


@dataclass(frozen=True)
class F1(Metric):
    """(1 + b^2) P R / (b^2 P + R) of precision and recall at k, which is (1 + b^2) hits / (b^2 relevant + k).

    Attributes:
        beta: the weight b of recall.
    """

    beta: float = 1.0

    name = "f1"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        square = self.beta**2
        return (1 + square) * ranked.hits.sum(1).double() / (square * ranked.n_relevant + k)


class RPrecision(Metric):
    """hits in the first r / r, r the number of relevant items. It has no cut-off."""

    name = "r_precision"
    expects = True
    cut = False

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        relevant = ranked.relevant_ranks
        if relevant is None:  # lists of another's making
            return (ranked.hits * (ranks(ranked.hits) <= ranked.n_relevant[:, None])).sum(
                1
            ).double() / ranked.n_relevant
        left = ranked.n_relevant[relevant.above.rows] - relevant.above.values
        if ranked.ties is None:
            found = (relevant.before < left).double()
        else:
            found = (left.clamp(min=0).double() / relevant.equal.clamp(min=1)).clamp(max=1)
        return _of_users(found * relevant.reachable, ranked) / ranked.n_relevant


def _of_users(values: Tensor, ranked: RankedHits) -> Tensor:
    """[U] float64: the sums of values of relevant items, [T]."""
    assert ranked.relevant_ranks is not None
    sums = torch.zeros(len(ranked), dtype=torch.float64, device=values.device)
    return sums.index_add_(0, ranked.relevant_ranks.above.rows, values.double())


@dataclass(frozen=True)
class DCG(Metric):
    """The sum over the ranks j <= k of gain_j / log2(j + 1): above 1 where there are several hits or grades.

    Attributes:
        gain: of a grade: ``linear``, the grade; or ``exponential``, 2^grade - 1 (Burges et al., ICML 2005). It is 1 for
            a relevant item where the truth carries no grades.
    """

    gain: Literal["linear", "exponential"] = "linear"

    name = "dcg"
    expects = True

    def weights(self, ranked: RankedHits) -> Tensor:
        """[K] float64: the discount of each rank."""
        return (ranks(ranked.hits) + 1).log2().reciprocal()

    def gains(self, grades: Tensor) -> Tensor:
        return grades.exp2() - 1 if self.gain == "exponential" else grades

    def gained(self, ranked: RankedHits) -> Tensor:
        """[U, K] float64: the gain at each rank."""
        if ranked.gains is None:
            return ranked.hits.double()
        if self.gain == "exponential" and ranked.ties is not None:
            raise ValueError("gain = 'exponential' has no expectation over tied orders; use gain = 'linear'")
        return self.gains(ranked.gains)

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (self.gained(ranked) * self.weights(ranked)).sum(1)


class NDCG(DCG):
    """:class:`DCG` over the DCG of the best possible list: of its first min(relevant items, k) ranks all are hits."""

    name = "ndcg"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = self.weights(ranked)
        if ranked.gains is None or ranked.ideal_gains is None:
            return (ranked.hits * weights).sum(1) / _best(weights, ranked.n_relevant)
        return super().compute(ranked, k) / (self.gains(ranked.ideal_gains) * weights).sum(1)


def _best(weights: Tensor, n_hits: Tensor) -> Tensor:
    """[U] float64: the sum of the weights [K] of the first ``n_hits`` [U] ranks, at least of one."""
    return weights.cumsum(0)[(n_hits.clamp(max=len(weights)) - 1).clamp(min=0)]


class MAP(Metric):
    """The sum over the ranks j <= k of hits of (hits in the first j) / j, over min(relevant items, k)."""

    name = "map"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (_precise_hits(ranked) / ranks(ranked.hits)).sum(1) / ranked.n_relevant.clamp(max=k)


def _precise_hits(ranked: RankedHits) -> Tensor:
    """[U, K] float64: the (expected) number of hits up to each rank that is itself a hit, else 0."""
    hits = ranked.hits.double()
    if ranked.ties is None:
        return hits * hits.cumsum(1)
    ties = ranked.ties
    offset, size, n_hits = (part.double() for part in (ties.offset, ties.size, ties.n_hits))
    # hits in groups above are independent of this one; two ranks of a group are both hits with m(m-1)/n(n-1)
    above = hits.cumsum(1) - hits * (offset + 1)
    both = n_hits * (n_hits - 1) / (size * (size - 1)).clamp(min=1)
    return hits * (1 + above) + offset * both


class MRR(Metric):
    """1 / the rank of the first relevant item, 0 where none is among the first k."""

    name = "mrr"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.ties is not None:
            return (first_hit(ranked.ties) / ranks(ranked.hits)).sum(1)
        return (ranked.hits / ranks(ranked.hits)).amax(1)


@dataclass(frozen=True)
class RBP(Metric):
    """The sum over the ranks j <= k of hits of p^(j-1), over the same sum for the best possible list.

    Source: Moffat and Zobel, TOIS 2008. Departure: they multiply the sum by 1 - p instead, so that with few relevant
    items the best possible value is far below 1.

    Attributes:
        patience: p, the probability that a user goes on to the next item.
    """

    patience: float = 0.85

    name = "rbp"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = self.patience ** (ranks(ranked.hits) - 1)
        return (ranked.hits * weights).sum(1) / _best(weights, ranked.n_relevant)


class AUC(Metric):
    """The share of pairs of a relevant and another candidate in which the relevant one stands higher; ties count half.

    All candidates are ranked and there is no cut-off. A relevant item that is no candidate loses every pair; a user
    without other candidates has no value.
    """

    name = "auc"
    cut = False
    expects = True
    needs = frozenset({"relevant_ranks"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        relevant = ranked.relevant_ranks
        assert relevant is not None
        ok = relevant.reachable.double()
        found = _of_users(ok, ranked)
        # of the candidates above and beside the r relevant ones, themselves included, r^2 / 2 are relevant
        lost = _of_users((relevant.above.values + relevant.equal * 0.5) * ok, ranked) - found.square() / 2
        return (found - lost / (relevant.n_candidates - found)) / ranked.n_relevant
