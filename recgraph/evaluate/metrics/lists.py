"""Metrics of what is listed: how it spreads over the items, how popular, new, surprising and different it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nan

from recgraph.evaluate.metrics.base import Aggregate, Metric, RankedHits, average, of_items, ranks, times_listed


class AveragePopularity(Metric):
    """The mean over the first k of the item's interactions in the training data. An empty list has no value."""

    name = "average_popularity"
    higher_is_better = False
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return average(of_items(ranked.popularity().double(), ranked), ranked)


class CatalogueCoverage(Aggregate):
    """Items among the first k of any list / items in the catalogue."""

    name = "catalogue_coverage"
    needs = frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (times_listed(ranked) > 0).sum().double() / ranked.catalogue().n_items


class Entropy(Aggregate):
    """The entropy of the items among the first k of all lists, over its greatest value, log(items in the catalogue)."""

    name = "entropy"
    needs = frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts = times_listed(ranked)
        shares = counts[counts > 0].double() / counts.sum()
        return -(shares * shares.log()).sum() / shares.new_tensor(len(counts)).log()


class Gini(Aggregate):
    """The Gini index of how often each item of the catalogue is among the first k: 0 for all alike, near 1 for few.

    With x ascending it is the sum of (2i - N - 1) x_i / (N sum x).
    """

    name = "gini"
    higher_is_better = False
    needs = frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        shares = times_listed(ranked).double()
        size, place = len(shares), torch.arange(1, len(shares) + 1, dtype=torch.float64)
        return ((2 * place - size - 1) * shares.sort().values).sum() / (size * shares.sum())


class Personalization(Aggregate):
    """1 - (items that two users' first k share) / (the length of a list), the mean over all pairs of users.

    An item that c users are shown is shared by c(c-1)/2 pairs, so no pair is looked at. The length is at most the
    items of the catalogue, and lists must have it. NaN for one user.
    """

    name = "personalization"
    needs = frozenset({"items", "facts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, n_users = times_listed(ranked), len(ranked)
        if n_users < 2:
            return torch.tensor(nan, dtype=torch.float64)
        shared = (counts.double() * (counts - 1)).sum()
        return 1 - shared / (n_users * (n_users - 1) * min(k, len(counts)))


@dataclass(frozen=True)
class TailShare(Metric):
    """The share of the first k that belongs to the least popular items.

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
        return average(of_items(tail, ranked), ranked)


class IntraListDiversity(Metric):
    """The mean distance 1 - cosine over the pairs of the first k, between item features or embeddings.

    A list of one item is 0, an empty one has no value.
    """

    name = "intra_list_diversity"
    needs_truth = False
    needs = frozenset({"items", "features"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        known = ranked.catalogue().features
        assert known is not None
        items, features = ranked.listed(), known.double()
        # a few users at a time: a block holds the features of all their items
        width = max(items.shape[1], 1)
        block = max((1 << 22) // (width * max(features.shape[1], width)), 1)
        parts = [_diversity(rows, features) for rows in torch.split(items, block)]
        return torch.cat(parts)


def _diversity(items: Tensor, features: Tensor) -> Tensor:
    mask = items >= 0
    listed = features[items.clamp(min=0)] * mask[:, :, None]
    unit = torch.nn.functional.normalize(listed, dim=2)
    others = 1 - torch.eye(items.shape[1], dtype=unit.dtype, device=unit.device)
    distances = (1 - unit @ unit.mT) * others * (mask[:, :, None] & mask[:, None, :])
    n = mask.sum(1)
    return (distances.sum((1, 2)) / (n * (n - 1)).double().clamp(min=1)).masked_fill(n == 0, nan)


class NewItems(Metric):
    """The share of the first k that the user has no interaction with in the training data."""

    name = "new_items"
    needs_truth = False
    needs = frozenset({"items", "known"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.known is not None
        return average(~ranked.known, ranked)


class Novelty(Metric):
    """The mean over the first k of log2(users / the item's interactions): its self-information in bits.

    An item without interactions counts like one with a single one. An empty list has no value.
    """

    name = "novelty"
    needs_truth = False
    needs = frozenset({"items", "counts", "n_users"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, n_users = ranked.popularity().clamp(min=1).double(), ranked.catalogue().n_users
        assert n_users is not None
        return average(of_items(counts.new_tensor(float(n_users)).log2() - counts.log2(), ranked), ranked)


class Serendipity(Metric):
    """The mean over the first k of max(p - q, 0) for hits and 0 for others.

    p = (N + 1 - rank) / N of the N items in the catalogue; q the same of the item's rank by popularity, equally popular
    items sharing a rank and the next one following without a gap; 0 for an item without interactions. A user without
    relevant items counts as 0, an empty list has no value.
    """

    name = "serendipity"
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, size = ranked.popularity(), ranked.catalogue().n_items
        _, group = torch.unique(-counts, return_inverse=True)
        expected = ((size - group).double() / size).masked_fill(counts == 0, 0.0)
        own = (size + 1 - ranks(ranked.hits)) / size
        return average((own - of_items(expected, ranked)).clamp(min=0) * ranked.hits, ranked)


class Unexpectedness(Metric):
    """The share of the first k that is not among the k most popular items. An empty list has no value."""

    name = "unexpectedness"
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        popular = torch.zeros(ranked.catalogue().n_items, dtype=torch.bool)
        popular[ranked.catalogue().by_popularity[:k]] = True
        return average(~of_items(popular, ranked), ranked)
