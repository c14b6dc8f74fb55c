"""Gains and discounts that NDCG and DCG share.

Discounted cumulative gain, not normalised.

Normalised discounted cumulative gain.

Mean average precision.

Mean reciprocal rank.

Normalised cumulative reciprocal rank.

Rank-biased precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nan

from recgraph.evaluate.metrics.base import Metric, Places, RankedHits, first_hit, ranks


@dataclass(frozen=True)
class Discounted(Metric):
    """Base of NDCG and DCG.

    Attributes:
        gain: ``linear``: the grade; ``exponential``: 2^grade - 1 (Burges et al., ICML 2005).
        discount: ``rank``: 1 / log2(j + 1) at rank j; ``late``: 1 / log2(max(j, 2)), which weighs ranks 1 and 2
            alike (the default under ``lenskit``; its ``LogRankWeight(offset=1)`` is ``rank``).
    """

    gain: Literal["linear", "exponential"] = "linear"
    discount: Literal["rank", "late"] | None = None

    expects = True

    def discounts(self, k: int, like: Tensor) -> Tensor:
        """[k] float64."""
        discount = self.discount or ("late" if self.convention == "lenskit" else "rank")
        places = ranks(k, like)
        return (places + 1 if discount == "rank" else places.clamp(min=2)).log2().reciprocal()

    def gained(self, ranked: RankedHits, k: int) -> Tensor:
        """[U, k] float64."""
        if ranked.gains is None:
            return ranked.hits[:, :k].double()
        if self.gain == "exponential" and ranked.ties is not None:
            raise ValueError("gain = 'exponential' has no expectation over tied orders here; use gain = 'linear'")
        return self.of_grades(ranked.gains[:, :k])

    def of_grades(self, grades: Tensor) -> Tensor:
        return grades if self.gain == "linear" else grades.exp2() - 1


class DCG(Discounted):
    """The sum over the ranks j <= k of gain_j / log2(j + 1): above 1 where there are several hits or grades.

    Under ``lenskit`` a user without relevant items has the value 0.
    """

    name = "dcg"
    conventions = ("recgraph", "lenskit", "ranx", "recpack")

    def without_truth(self) -> float | None:
        return 0.0 if self.convention == "lenskit" else super().without_truth()

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (self.gained(ranked, k) * self.discounts(k, ranked.hits)).sum(1)


@dataclass(frozen=True)
class NDCG(Discounted):
    """The sum over the ranks j <= k of gain_j / log2(j + 1), over the same sum for the best possible list.

    The gain is 1 for a relevant item; where the truth carries grades it is the grade.

    Attributes:
        ideal: the best list: ``achievable``: its first min(relevant items, k) places are hits; ``full``: all k are,
            whatever is relevant (the default under ``rectools``, for binary gains; its
            ``divide_by_achievable=True`` is ``achievable``).
    """

    ideal: Literal["achievable", "full"] | None = None

    name = "ndcg"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        discount = self.discounts(k, ranked.hits)
        if (self.ideal or ("full" if self.convention == "rectools" else "achievable")) == "full":
            return (ranked.hits[:, :k] * discount).sum(1) / discount.sum()
        if ranked.gains is None or ranked.ideal_gains is None:
            best = discount.cumsum(0)[(ranked.n_relevant.clamp(max=k) - 1).clamp(min=0)]
            return (ranked.hits[:, :k] * discount).sum(1) / best
        best = (self.of_grades(ranked.ideal_gains[:, :k]) * discount).sum(1)
        return (self.gained(ranked, k) * discount).sum(1) / best


_DIVISORS = {"rectools": "relevant", "ranx": "relevant", "lenskit": "listed", "torchmetrics": "hits"}


@dataclass(frozen=True)
class MAP(Metric):
    """The sum over the ranks j <= k of hits of (hits in the first j) / j, over min(relevant items, k).

    Under ``cornac`` it has no cut-off: all candidates are ranked, and a tie counts as the last of its places.

    Attributes:
        divide_by: ``bounded``: min(relevant items, k), as in RecBole, RePlay and PyG; the ``relevant`` items, as in
            RecTools and ranx; min(relevant items, ``listed`` items), as in LensKit; the ``hits``, as in
            TorchMetrics; or ``k`` (RecTools' ``divide_by_k=True``); by default that of the convention.
    """

    divide_by: Literal["bounded", "relevant", "listed", "hits", "k"] | None = None

    name = "map"
    conventions = (
        "recgraph",
        "recbole",
        "rectools",
        "replay",
        "lenskit",
        "pyg",
        "torchmetrics",
        "ranx",
        "cornac",
    )
    expects = True
    wants_positive_scores = True

    @property
    def cut(self) -> bool:
        return self.convention != "cornac"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"places"} if self.convention == "cornac" else ())

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.convention == "cornac":
            assert ranked.places is not None
            return _pessimistic(ranked.places) / ranked.n_relevant
        found = (_precise_hits(ranked, k) / ranks(k, ranked.hits)).sum(1)
        divide_by = self.divide_by or _DIVISORS.get(self.convention, "bounded")
        if divide_by == "k":
            return found / k
        if divide_by == "relevant":
            return found / ranked.n_relevant
        if divide_by == "listed":
            return found / ranked.n_relevant.minimum(ranked.n_listed(k))
        if divide_by == "hits":
            return found / ranked.hits[:, :k].sum(1).clamp(min=1)
        return found / ranked.n_relevant.clamp(max=k)


def _precise_hits(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] float64: the (expected) number of hits up to each rank that is itself a hit, else 0."""
    hits = ranked.hits[:, :k].double()
    if ranked.ties is None:
        return hits * hits.cumsum(1)
    ties = ranked.ties
    offset, size, n_hits = (part[:, :k].double() for part in (ties.offset, ties.size, ties.n_hits))
    # hits in groups above are independent of this one; two places of a group are both hits with m(m-1)/n(n-1)
    above = hits.cumsum(1) - hits * (offset + 1)
    both = n_hits * (n_hits - 1) / (size * (size - 1)).clamp(min=1)
    return hits * (1 + above) + offset * both


def _pessimistic(places: Places) -> Tensor:
    last = (places.above.values + places.equal).double()
    precision = (places.n_better() + places.n_tied()) / last
    values = torch.zeros(places.above.n_rows, dtype=torch.float64, device=last.device)
    return values.index_add_(0, places.above.rows, precision * places.reachable)


class MRR(Metric):
    """1 / the rank of the first relevant item, 0 where none is among the first k.

    Under ``cornac`` a user without a hit has no value (the library raises).
    """

    name = "mrr"
    expects = True
    wants_positive_scores = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.ties is not None:
            return (first_hit(ranked, k) / ranks(k, ranked.hits)).sum(1)
        values = (ranked.hits[:, :k] / ranks(k, ranked.hits)).amax(1)
        return values.masked_fill(values == 0, nan) if self.convention == "cornac" else values


class NCRR(Metric):
    """The sum over the ranks j <= k of hits of 1 / j, over the same sum for the best possible list.

    Under ``cornac`` the best list is no longer than the list itself.
    """

    name = "ncrr"
    conventions = ("recgraph", "cornac")
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = ranks(k, ranked.hits).reciprocal()
        longest = ranked.n_listed(k) if self.convention == "cornac" else ranked.n_relevant.clamp(max=k)
        best = weights.cumsum(0)[(ranked.n_relevant.minimum(longest) - 1).clamp(min=0)]
        return (ranked.hits[:, :k] * weights).sum(1) / best


@dataclass(frozen=True)
class RBP(Metric):
    """The sum over the ranks j <= k of hits of p^(j-1), over the same sum for the best possible list.

    Moffat and Zobel (TOIS 2008) and, as defaults, LensKit and ranx multiply the sum by 1 - p instead, so that with
    few relevant items the best possible value is far below 1; ranx also multiplies each hit by its grade.

    Attributes:
        patience: p, the probability that a user goes on to the next item.
        normalize: whether the best possible list scores 1; by default that of the convention. Under ``lenskit`` the
            best list is no longer than the list itself.
    """

    patience: float = 0.85
    normalize: bool | None = None

    name = "rbp"
    conventions = ("recgraph", "lenskit", "ranx")
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = self.patience ** (ranks(k, ranked.hits) - 1)
        gains = ranked.gains if self.convention == "ranx" and ranked.gains is not None else ranked.hits
        found = (gains[:, :k] * weights).sum(1)
        normalize = self.convention == "recgraph" if self.normalize is None else self.normalize
        if not normalize:
            return found * (1 - self.patience)
        best = ranked.n_relevant.clamp(max=k)
        if self.convention == "lenskit":
            best = best.minimum(ranked.n_listed(k))
        return (found / weights.cumsum(0)[(best - 1).clamp(min=0)]).masked_fill(best == 0, float("nan"))
