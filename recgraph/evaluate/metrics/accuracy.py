"""Metrics that count hits, whatever their rank: hit rate, precision, recall, F1, R-precision, stratified recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, RelevantRanks, first_hit, of_items


@dataclass(frozen=True)
class HitRate(Metric):
    """1 if a relevant item is among the first k, else 0.

    Attributes:
        count: the number of relevant items instead (ranx's ``hits``, RecPack's ``HitK``).
    """

    count: bool = False

    name = "hit_rate"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.count:
            return ranked.hits[:, :k].sum(1).double()
        if ranked.ties is not None:
            return first_hit(ranked, k).sum(1)
        return ranked.hits[:, :k].any(1).double()


@dataclass(frozen=True)
class Precision(Metric):
    """hits in the first k / k. Short lists are divided by k, too.

    Under ``lenskit`` a user without relevant items has a value, 0.

    Attributes:
        divide_by: ``k``, by default; the ``listed`` items, an empty list then has no value (LensKit, and Cornac without
            a cut-off); the ``relevant`` items but at most k (RecTools' ``r_precision=True``, which is not R-precision);
            or the ``catalogue`` but at most k (TorchMetrics' ``adaptive_k=True``).
    """

    divide_by: Literal["k", "listed", "relevant", "catalogue"] | None = None

    name = "precision"
    expects = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"n_items"} if self.divide_by == "catalogue" else ())

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        found = ranked.hits[:, :k].sum(1).double()
        if self.divide_by == "listed":
            return found / ranked.n_listed(k)
        if self.divide_by == "relevant":
            return found / ranked.n_relevant.clamp(max=k)
        if self.divide_by == "catalogue":
            return found / min(k, ranked.catalogue().n_items)
        return found / k


@dataclass(frozen=True)
class Recall(Metric):
    """hits in the first k / relevant items. With more than k relevant items the best possible value is below 1.

    Attributes:
        bounded: divide by min(relevant items, k) (LensKit; RecPack's ``CalibratedRecallK``).
        weighted: count grades, not items (PyG's ``weighted=True``).
    """

    bounded: bool = False
    weighted: bool = False

    name = "recall"
    expects = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"gains", "total_gain"} if self.weighted else ())

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.weighted:
            assert ranked.gains is not None
            assert ranked.total_gain is not None
            return ranked.gains[:, :k].sum(1) / ranked.total_gain
        n_relevant = ranked.n_relevant.clamp(max=k) if self.bounded else ranked.n_relevant
        return ranked.hits[:, :k].sum(1).double() / n_relevant


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
        return (1 + square) * ranked.hits[:, :k].sum(1).double() / (square * ranked.n_relevant + k)


class RPrecision(Metric):
    """hits in the first r / r, r the number of relevant items. It has no cut-off.

    (RecTools' ``r_precision=True`` is something else: ``Precision(divide_by="relevant")``.)
    """

    name = "r_precision"
    expects = True
    cut = False

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.relevant_ranks is not None:
            return _from_ranks(ranked.relevant_ranks, ranked.n_relevant, ranked.ties is not None) / ranked.n_relevant
        position = torch.arange(k, device=ranked.hits.device)
        return (ranked.hits[:, :k] * (position < ranked.n_relevant[:, None])).sum(1).double() / ranked.n_relevant


def _from_ranks(relevant: RelevantRanks, n_relevant: Tensor, expected: bool) -> Tensor:
    """[U] float64: the (expected) hits among the first r of the whole ranking."""
    left = n_relevant[relevant.above.rows] - relevant.above.values
    if expected:
        found = (left.clamp(min=0).double() / relevant.equal.clamp(min=1)).clamp(max=1)
    else:
        found = (relevant.before < left).double()
    values = torch.zeros(relevant.above.n_rows, dtype=torch.float64, device=found.device)
    return values.index_add_(0, relevant.above.rows, found * relevant.reachable)


_MOST = 10_000.0


@dataclass(frozen=True)
class StratifiedRecall(Metric):
    """Recall in which an item counts 1 / popularity^beta, so that what is hard to find counts more.

    Steck, "Item popularity and recommendation accuracy" (RecSys 2011). Popularity is the interactions in the training
    data; an item without any counts like one with a single interaction.

    Attributes:
        beta: 0 gives recall.
        inverse_share: instead the sum over hits of min(all interactions / the item's, 10000), 0 for an item without
            any, not divided (RecPack's ``IPSHitRateK``).
    """

    beta: float = 0.5
    inverse_share: bool = False

    name = "stratified_recall"
    needs = frozenset({"items", "counts", "relevant"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts = ranked.popularity().double()
        if self.inverse_share:
            weights = torch.where(counts > 0, (counts.sum() / counts.clamp(min=1)).clamp(max=_MOST), 0.0)
        else:
            weights = counts.clamp(min=1) ** -self.beta
        found = (of_items(weights, ranked, k) * ranked.hits[:, :k]).sum(1)
        if self.inverse_share:
            return found
        assert ranked.relevant is not None
        total = torch.zeros_like(found).index_add_(0, ranked.relevant.rows, weights[ranked.relevant.values])
        return found / total
