"""Average popularity of what is recommended.

Catalogue coverage: the share of the items that anyone is recommended.

Entropy: how evenly recommendations are spread over the items.

Gini: how unequally recommendations are spread over the items.

Personalization: how different the lists of two users are.

Tail share: how much of a list is unpopular.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Aggregate, Facts, Metric, RankedHits, average, listed, ranks


@dataclass(frozen=True)
class AveragePopularity(Metric):
    """The mean over the first k of the item's interactions in the training data. An empty list has no value.

    Under ``lenskit`` (``MeanPopRank``) the mean of the item's popularity rank, from 0 to 1, among items with an
    interaction; 0 for others.

    Attributes:
        normalize: divide by all interactions (RecTools' ``normalize=True``).
    """

    normalize: bool = False

    name = "average_popularity"
    higher_is_better = False
    conventions = ("recgraph", "recbole", "rectools", "lenskit", "pyg")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        counts = ranked.facts.counts.double()
        if self.convention == "lenskit":
            counts = _popularity_rank(ranked.facts)
        elif self.normalize:
            counts = counts / counts.sum()
        return average(counts[ranked.items[:, :k].clamp(min=0)], ranked, k)


def _popularity_rank(facts: Facts) -> Tensor:
    """[n_items] float64: (average ascending rank among items with an interaction) / their number; 0 for others."""
    assert facts.counts is not None
    known = facts.counts > 0
    _, group, size = torch.unique(facts.counts[known], return_inverse=True, return_counts=True)
    middle = size.cumsum(0) - (size - 1) / 2
    ranks = torch.zeros(facts.n_items, dtype=torch.float64)
    ranks[known] = middle[group].double() / int(known.sum())
    return ranks


@dataclass(frozen=True)
class CatalogueCoverage(Aggregate):
    """Items among the first k of any list / items in the catalogue.

    Conventions: ``recbole`` counts its padding item in the catalogue; ``replay`` counts only items with an interaction
    in the training data, in both; ``recpack`` only lists of users with relevant items; ``rectools`` does not divide
    unless told to.

    Attributes:
        normalize: whether to divide; by default that of the convention.
    """

    normalize: bool | None = None

    name = "catalogue_coverage"
    conventions = ("recgraph", "recbole", "rectools", "replay", "pyg", "recpack")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"} | ({"counts"} if self.convention == "replay" else set()))

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        shown, size = counts > 0, facts.n_items
        if self.convention == "recpack":
            assert ranked.items is not None
            some = ranked.items[ranked.n_relevant > 0, :k]
            shown = torch.bincount(some[some >= 0], minlength=size) > 0
        elif self.convention == "recbole":
            size += 1
        elif self.convention == "replay":
            assert facts.counts is not None
            known = facts.counts > 0
            shown, size = shown & known, int(known.sum())
        total = shown.sum().double()
        normalize = self.convention != "rectools" if self.normalize is None else self.normalize
        return total / size if normalize else total


class Entropy(Aggregate):
    """The entropy of the items among the first k of all lists, over its greatest value, log(items in the catalogue).

    Under ``recbole`` (``ShannonEntropy``): the natural entropy divided by the number of distinct items.
    """

    name = "entropy"
    conventions = ("recgraph", "recbole")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        shares = counts[counts > 0].double() / counts.sum()
        entropy = -(shares * shares.log()).sum()
        return entropy / (shares.numel() if self.convention == "recbole" else shares.new_tensor(facts.n_items).log())


@dataclass(frozen=True)
class Gini(Aggregate):
    """The Gini index of how often each item of the catalogue is among the first k: 0 for all alike, near 1 for few.

    With x ascending it is the sum of (2i - N - 1) x_i / (N sum x). Under ``recbole`` its padding item counts as one
    more item that is never recommended.

    Attributes:
        patience: weigh an item at rank j by patience^(j-1), its exposure, instead of 1 (LensKit's ``ExposureGini``).
    """

    patience: float | None = None

    name = "gini"
    higher_is_better = False
    conventions = ("recgraph", "recbole", "lenskit")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        shares = counts.double()
        if self.patience is not None:
            assert ranked.items is not None
            items = ranked.items[:, :k]
            weights = (self.patience ** (ranks(k, items) - 1)).expand_as(items)
            shares = torch.bincount(items[items >= 0], weights[items >= 0], minlength=facts.n_items)
        if self.convention == "recbole":
            shares = torch.cat([shares, shares.new_zeros(1)])
        size = shares.numel()
        return ((2 * ranks(size, shares) - size - 1) * shares.sort().values).sum() / (size * shares.sum())


class Personalization(Aggregate):
    """1 - (items that two users' first k share) / (the places of a list), the mean over all pairs of users.

    An item that c users are shown is shared by c(c-1)/2 pairs, so no pair is looked at. The places are at most the
    items of the catalogue, and lists must fill them. NaN for one user.
    """

    name = "personalization"
    conventions = ("recgraph", "pyg")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, facts = listed(ranked, k)
        n_users = len(ranked)
        if n_users < 2:
            return torch.tensor(float("nan"), dtype=torch.float64)
        shared = (counts.double() * (counts - 1)).sum()
        return 1 - shared / (n_users * (n_users - 1) * min(k, facts.n_items))


@dataclass(frozen=True)
class TailShare(Metric):
    """The share of the first k that belongs to the least popular items (RecBole's ``TailPercentage``).

    The tail is the first max(int(ratio m), 1) of the m items with an interaction, by interactions and then by index;
    items without any are no part of it. An empty list has no value.

    Attributes:
        ratio: the share of the items that makes the tail.
    """

    ratio: float = 0.2

    name = "tail_share"
    conventions = ("recgraph", "recbole")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        counts = ranked.facts.counts
        ascending = counts.argsort(stable=True)
        ascending = ascending[counts[ascending] > 0]
        tail = torch.zeros_like(counts, dtype=torch.bool)
        tail[ascending[: max(int(self.ratio * ascending.numel()), 1)]] = True
        return average(tail[ranked.items[:, :k].clamp(min=0)], ranked, k)
