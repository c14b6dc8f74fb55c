"""How recommendations are spread over the items: popularity, coverage, entropy, Gini, personalization, tail share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nan

from recgraph.evaluate.metrics.base import Aggregate, Metric, RankedHits, average, of_items, times_listed
from recgraph.evaluate.metrics.discounts import geometric, ranks

_LISTS = frozenset({"items", "facts"})


@dataclass(frozen=True)
class AveragePopularity(Metric):
    """The mean over the first k of the item's interactions in the training data. An empty list has no value.

    Attributes:
        normalize: divide by all interactions (RecTools' ``normalize=True``).
        by_rank: instead of the interactions, the item's rank by them, from 0 to 1 among items with an interaction; 0
            for others (LensKit's ``MeanPopRank``).
    """

    normalize: bool = False
    by_rank: bool = False

    name = "average_popularity"
    higher_is_better = False
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts = ranked.popularity().double()
        if self.by_rank:
            counts = _popularity_rank(ranked.popularity())
        elif self.normalize:
            counts = counts / counts.sum()
        return average(of_items(counts, ranked, k), ranked, k)


def _popularity_rank(counts: Tensor) -> Tensor:
    """[n_items] float64: (average ascending rank among items with an interaction) / their number; 0 for others."""
    known = counts > 0
    _, group, size = torch.unique(counts[known], return_inverse=True, return_counts=True)
    middle = size.cumsum(0) - (size - 1) / 2
    found = torch.zeros(len(counts), dtype=torch.float64)
    found[known] = middle[group].double() / int(known.sum())
    return found


@dataclass(frozen=True)
class CatalogueCoverage(Aggregate):
    """Items among the first k of any list / items in the catalogue.

    Attributes:
        normalize: whether to divide, by default (not in RecTools, unless told to).
        padding_item: counts in the catalogue as one more item (RecBole).
        known_only: count only items with an interaction in the training data, in both (RePlay).
        with_truth_only: count only lists of users with relevant items (RecPack).
    """

    normalize: bool | None = None
    padding_item: bool = False
    known_only: bool = False
    with_truth_only: bool = False

    name = "catalogue_coverage"

    @property
    def needs(self) -> frozenset[str]:
        return _LISTS | {"counts"} if self.known_only else _LISTS

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        items = ranked.first_items(k)
        if self.with_truth_only:
            items = items[ranked.n_relevant > 0]
        size = ranked.catalogue().n_items
        shown = torch.bincount(items[items >= 0], minlength=size) > 0
        if self.known_only:
            known = ranked.popularity() > 0
            shown, size = shown & known, int(known.sum())
        total = shown.sum().double()
        return total if self.normalize is False else total / (size + self.padding_item)


@dataclass(frozen=True)
class Entropy(Aggregate):
    """The entropy of the items among the first k of all lists, over its greatest value, log(items in the catalogue).

    Attributes:
        per_item: the natural entropy divided by the number of distinct items instead (RecBole's ``ShannonEntropy``).
    """

    per_item: bool = False

    name = "entropy"
    needs = _LISTS

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts = times_listed(ranked, k)
        shares = counts[counts > 0].double() / counts.sum()
        entropy = -(shares * shares.log()).sum()
        return entropy / (shares.numel() if self.per_item else shares.new_tensor(len(counts)).log())


@dataclass(frozen=True)
class Gini(Aggregate):
    """The Gini index of how often each item of the catalogue is among the first k: 0 for all alike, near 1 for few.

    With x ascending it is the sum of (2i - N - 1) x_i / (N sum x).

    Attributes:
        patience: weigh an item at rank j by patience^(j-1), its exposure, instead of 1 (LensKit's ``ExposureGini``).
        padding_item: counts as one more item that is never recommended (RecBole).
    """

    patience: float | None = None
    padding_item: bool = False

    name = "gini"
    higher_is_better = False
    needs = _LISTS

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        shares = times_listed(ranked, k).double()
        if self.patience is not None:
            items = ranked.first_items(k)
            weights = geometric(self.patience, k, items).expand_as(items)
            shares = torch.bincount(items[items >= 0], weights[items >= 0], minlength=len(shares))
        if self.padding_item:
            shares = torch.cat([shares, shares.new_zeros(1)])
        size = shares.numel()
        return ((2 * ranks(size, shares) - size - 1) * shares.sort().values).sum() / (size * shares.sum())


class Personalization(Aggregate):
    """1 - (items that two users' first k share) / (the length of a list), the mean over all pairs of users.

    An item that c users are shown is shared by c(c-1)/2 pairs, so no pair is looked at. The length is at most the
    items of the catalogue, and lists must have it. NaN for one user.
    """

    name = "personalization"
    needs = _LISTS

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, n_users = times_listed(ranked, k), len(ranked)
        if n_users < 2:
            return torch.tensor(nan, dtype=torch.float64)
        shared = (counts.double() * (counts - 1)).sum()
        return 1 - shared / (n_users * (n_users - 1) * min(k, len(counts)))


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
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts = ranked.popularity()
        ascending = counts.argsort(stable=True)
        ascending = ascending[counts[ascending] > 0]
        tail = torch.zeros_like(counts, dtype=torch.bool)
        tail[ascending[: max(int(self.ratio * ascending.numel()), 1)]] = True
        return average(of_items(tail, ranked, k), ranked, k)
