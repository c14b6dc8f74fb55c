"""Metrics that weigh a hit by its rank: DCG, NDCG, MAP, MRR, NCRR and RBP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nan

from recgraph.evaluate.metrics.base import Metric, RankedHits, RelevantRanks, first_hit
from recgraph.evaluate.metrics.discounts import (
    EXPONENTIAL,
    LATE,
    LINEAR,
    RANK,
    Discount,
    Gain,
    geometric,
    ranks,
    reciprocal,
)

_GAINS = {gain.name: gain for gain in (LINEAR, EXPONENTIAL)}
_DISCOUNTS = {discount.name: discount for discount in (RANK, LATE)}
T = TypeVar("T")


@dataclass(frozen=True)
class Discounted(Metric):
    """Base of NDCG and DCG.

    Attributes:
        gain: of a grade: ``LINEAR``, the grade; ``EXPONENTIAL``, 2^grade - 1 (Burges et al., ICML 2005); or your own
            ``Gain``. The names ``linear`` and ``exponential`` are accepted, too.
        discount: of a rank j: ``RANK``, 1 / log2(j + 1), by default; ``LATE``, 1 / log2(max(j, 2)), which weighs ranks
            1 and 2 alike (LensKit's default; its ``LogRankWeight(offset=1)`` is ``RANK``); or your own ``Discount``.
            The names ``rank`` and ``late`` are accepted, too.
    """

    gain: Gain | str = LINEAR
    discount: Discount | str | None = None

    expects = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gain", _named("gain", self.gain, _GAINS))
        if self.discount is not None:
            object.__setattr__(self, "discount", _named("discount", self.discount, _DISCOUNTS))

    def weights(self, k: int, like: Tensor) -> Tensor:
        """[k] float64: the discount of each rank; no more than the lists ``like`` [U, W] have."""
        discount = self.discount or RANK
        assert isinstance(discount, Discount)
        return discount(k, like)

    def gains(self, grades: Tensor) -> Tensor:
        assert isinstance(self.gain, Gain)
        return self.gain(grades)

    def gained(self, ranked: RankedHits, k: int) -> Tensor:
        """[U, k] float64: the gain at each rank."""
        if ranked.gains is None:
            return ranked.hits[:, :k].double()
        if self.gain is not LINEAR and ranked.ties is not None:
            raise ValueError(f"gain = '{self.gain}' has no expectation over tied orders; use gain = 'linear'")
        return self.gains(ranked.gains[:, :k])


def _named(option: str, value: T | str, known: Mapping[str, T]) -> T:
    if not isinstance(value, str):
        return value
    if value not in known:
        raise ValueError(f"{option} = {value!r} must be one of {', '.join(known)}, or an object of your own")
    return known[value]


class DCG(Discounted):
    """The sum over the ranks j <= k of gain_j / log2(j + 1): above 1 where there are several hits or grades.

    Under ``lenskit`` a user without relevant items has the value 0.
    """

    name = "dcg"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (self.gained(ranked, k) * self.weights(k, ranked.hits)).sum(1)


@dataclass(frozen=True)
class NDCG(Discounted):
    """The sum over the ranks j <= k of gain_j / log2(j + 1), over the same sum for the best possible list.

    The gain is 1 for a relevant item; where the truth carries grades it is the grade.

    Attributes:
        ideal: the best list: ``achievable``, by default: its first min(relevant items, k) ranks are hits; ``full``: all
            k are, whatever is relevant, for binary gains (RecTools; its ``divide_by_achievable=True`` is
            ``achievable``).
    """

    ideal: Literal["achievable", "full"] | None = None

    name = "ndcg"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = self.weights(k, ranked.hits)
        if self.ideal == "full":
            best = self.weights(k, ranked.n_relevant).sum()  # of k hits, also where there are fewer items
            return (ranked.hits[:, :k] * weights).sum(1) / best
        if ranked.gains is None or ranked.ideal_gains is None:
            return (ranked.hits[:, :k] * weights).sum(1) / _best(weights, ranked.n_relevant)
        best = (self.gains(ranked.ideal_gains[:, :k]) * weights).sum(1)
        return (self.gained(ranked, k) * weights).sum(1) / best


def _best(weights: Tensor, n_hits: Tensor) -> Tensor:
    """[U] float64: the sum of the weights [k] of the first ``n_hits`` [U] ranks, at least of one."""
    return weights.cumsum(0)[(n_hits.clamp(max=len(weights)) - 1).clamp(min=0)]


@dataclass(frozen=True)
class MAP(Metric):
    """The sum over the ranks j <= k of hits of (hits in the first j) / j, over min(relevant items, k).

    Attributes:
        divide_by: ``bounded``, by default: min(relevant items, k), as in RecBole, RePlay and PyG; the ``relevant``
            items, as in RecTools and ranx; min(relevant items, ``listed`` items), as in LensKit; the ``hits``, as in
            TorchMetrics; or ``k`` (RecTools' ``divide_by_k=True``).
        whole: rank all candidates, without a cut-off; a tie counts as the last of its ranks, and the divisor is the
            relevant items (Cornac).
    """

    divide_by: Literal["bounded", "relevant", "listed", "hits", "k"] | None = None
    whole: bool = False

    name = "map"

    @property
    def expects(self) -> bool:
        # a mean of quotients is no quotient of means
        return self.divide_by != "hits"

    @property
    def cut(self) -> bool:
        return not self.whole

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"relevant_ranks"} if self.whole else ())

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if self.whole:
            assert ranked.relevant_ranks is not None
            return _pessimistic(ranked.relevant_ranks) / ranked.n_relevant
        found = (_precise_hits(ranked, k) / ranks(k, ranked.hits)).sum(1)
        if self.divide_by == "k":
            return found / k
        if self.divide_by == "relevant":
            return found / ranked.n_relevant
        if self.divide_by == "listed":
            return found / ranked.n_relevant.minimum(ranked.n_listed(k))
        if self.divide_by == "hits":
            return found / ranked.hits[:, :k].sum(1).clamp(min=1)
        return found / ranked.n_relevant.clamp(max=k)


def _precise_hits(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] float64: the (expected) number of hits up to each rank that is itself a hit, else 0."""
    hits = ranked.hits[:, :k].double()
    if ranked.ties is None:
        return hits * hits.cumsum(1)
    ties = ranked.ties
    offset, size, n_hits = (part[:, :k].double() for part in (ties.offset, ties.size, ties.n_hits))
    # hits in groups above are independent of this one; two ranks of a group are both hits with m(m-1)/n(n-1)
    above = hits.cumsum(1) - hits * (offset + 1)
    both = n_hits * (n_hits - 1) / (size * (size - 1)).clamp(min=1)
    return hits * (1 + above) + offset * both


def _pessimistic(relevant: RelevantRanks) -> Tensor:
    last = (relevant.above.values + relevant.equal).double()
    precision = (relevant.n_better() + relevant.n_tied()) / last
    values = torch.zeros(relevant.above.n_rows, dtype=torch.float64, device=last.device)
    return values.index_add_(0, relevant.above.rows, precision * relevant.reachable)


@dataclass(frozen=True)
class MRR(Metric):
    """1 / the rank of the first relevant item, 0 where none is among the first k.

    Attributes:
        needs_hit: a user without a hit has no value (Cornac, which raises).
    """

    needs_hit: bool = False

    name = "mrr"

    @property
    def expects(self) -> bool:
        return not self.needs_hit

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.ties is not None:
            return (first_hit(ranked, k) / ranks(k, ranked.hits)).sum(1)
        values = (ranked.hits[:, :k] / ranks(k, ranked.hits)).amax(1)
        return values.masked_fill(values == 0, nan) if self.needs_hit else values


@dataclass(frozen=True)
class NCRR(Metric):
    """The sum over the ranks j <= k of hits of 1 / j, over the same sum for the best possible list.

    Attributes:
        within_list: the best list is no longer than the list itself (Cornac).
    """

    within_list: bool = False

    name = "ncrr"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = reciprocal(k, ranked.hits)
        n_hits = ranked.n_relevant.minimum(ranked.n_listed(k)) if self.within_list else ranked.n_relevant
        return (ranked.hits[:, :k] * weights).sum(1) / _best(weights, n_hits)


@dataclass(frozen=True)
class RBP(Metric):
    """The sum over the ranks j <= k of hits of p^(j-1), over the same sum for the best possible list.

    The best list of graded hits has the greatest grades first.

    Attributes:
        patience: p, the probability that a user goes on to the next item.
        normalize: whether the best possible list scores 1, by default. Else the sum is multiplied by 1 - p (Moffat and
            Zobel, TOIS 2008; LensKit's and ranx' default), so that with few relevant items the best possible value is
            far below 1.
        graded: multiply each hit by its grade (ranx).
        within_list: the best list is no longer than the list itself (LensKit).
    """

    patience: float = 0.85
    normalize: bool | None = None
    graded: bool = False
    within_list: bool = False

    name = "rbp"
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = geometric(self.patience, k, ranked.hits)
        gains = ranked.gains if self.graded and ranked.gains is not None else ranked.hits
        found = (gains[:, :k] * weights).sum(1)
        if self.normalize is False:
            return found * (1 - self.patience)
        n_hits = ranked.n_relevant.minimum(ranked.n_listed(k)) if self.within_list else ranked.n_relevant
        if gains is ranked.hits or ranked.ideal_gains is None:
            best = _best(weights, n_hits)
        else:
            place = torch.arange(len(weights), device=weights.device)
            best = (ranked.ideal_gains[:, :k] * weights * (place < n_hits[:, None])).sum(1)
        return (found / best).masked_fill(n_hits == 0, nan)
