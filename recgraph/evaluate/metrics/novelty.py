"""Intra-list diversity: how different the items of a list are.

New items: how much of a list the user does not know yet.

Novelty: how little known the recommended items are.

Serendipity: relevant items that popularity would not have put there.

Unexpectedness: how much of a list the most popular items do not already hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, average, ranks


@dataclass(frozen=True)
class IntraListDiversity(Metric):
    """The mean distance 1 - cosine over the pairs of the first k, between item features or embeddings.

    A list of one item is 0, an empty one has no value.

    Conventions: ``rectools`` the number of features that differ (not divided by their number); ``recpack`` the Jaccard
    distance of 0/1 features, an empty list is 0 and users without relevant items are left out. Others look at an
    item's category, its first feature that is not 0: ``pyg`` 1 - (ordered pairs of the same category) / k(k - 1);
    ``replay`` categories / k, also for short lists; ``lenskit`` is no distance: the entropy in bits of the features'
    sums over the list.

    Attributes:
        patience: under ``lenskit`` weigh rank j by patience^(j-1) (its ``rank_biased_entropy``).
    """

    patience: float | None = None

    name = "intra_list_diversity"
    conventions = ("recgraph", "rectools", "replay", "lenskit", "pyg", "recpack")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "features"})

    def without_truth(self) -> float | None:
        return float("nan") if self.convention == "recpack" else None

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.features is not None
        items, features = ranked.items[:, :k], ranked.facts.features.double()
        mask = items >= 0
        # a few users at a time: a block holds the features of all their items
        block = max((1 << 22) // (k * max(features.shape[1], k)), 1)
        parts = [
            self._of(features[items[rows].clamp(min=0)] * mask[rows, :, None], mask[rows], k)
            for rows in (slice(start, start + block) for start in range(0, len(items), block))
        ]
        return torch.cat(parts) if parts else features.new_zeros(0)

    def _of(self, listed: Tensor, mask: Tensor, k: int) -> Tensor:
        """[U] float64 from features [U, k, F], 0 where the mask [U, k] is False."""
        if self.convention == "lenskit":
            return _entropy(listed, mask, self.patience or 1.0)
        if self.convention in ("pyg", "replay"):
            return _categories(listed, mask, k, self.convention == "pyg")
        n = mask.sum(1)
        pairs = (n * (n - 1)).double()
        total = (_DISTANCE[self.convention](listed) * (mask[:, :, None] & mask[:, None, :])).sum((1, 2))
        empty = 0.0 if self.convention == "recpack" else float("nan")
        return (total / pairs.clamp(min=1)).masked_fill(n == 0, empty)


def _cosine(listed: Tensor) -> Tensor:
    """[U, k, k]."""
    unit = torch.nn.functional.normalize(listed, dim=2)
    return _without_diagonal(1 - unit @ unit.mT)


def _hamming(listed: Tensor) -> Tensor:
    return torch.cdist(listed, listed, p=0)


def _jaccard(listed: Tensor) -> Tensor:
    size = listed.sum(2)
    both = listed @ listed.mT
    either = size[:, :, None] + size[:, None, :] - both
    return _without_diagonal(1 - both / either.clamp(min=1))


def _without_diagonal(distances: Tensor) -> Tensor:
    return distances * (1 - torch.eye(distances.shape[1], dtype=distances.dtype, device=distances.device))


_DISTANCE = {"recgraph": _cosine, "rectools": _hamming, "recpack": _jaccard}


def _categories(listed: Tensor, mask: Tensor, k: int, pairs: bool) -> Tensor:
    category = (listed != 0).to(torch.int8).argmax(2)
    counts = torch.nn.functional.one_hot(category, listed.shape[2]).double() * mask[..., None]
    per_category = counts.sum(1)
    if pairs:
        same = (per_category * (per_category - 1)).sum(1)
        return 1 - same / (k * (k - 1))
    return ((per_category > 0).sum(1).double() / k).masked_fill(~mask.any(1), float("nan"))


def _entropy(listed: Tensor, mask: Tensor, patience: float) -> Tensor:
    weights = patience ** (ranks(listed.shape[1], listed) - 1)
    sums = (listed * weights[:, None]).sum(1) + 1e-6
    shares = sums / sums.sum(1, keepdim=True)
    return -(shares * shares.log2()).sum(1).masked_fill(~mask.any(1), float("nan"))


class NewItems(Metric):
    """The share of the first k that the user has no interaction with in the training data.

    Under ``replay`` (``Novelty``) an empty list is 1 and users without training data are left out. (RePlay averages
    over all users of its training data, and counts those without a list as 1: give them empty lists.)
    """

    name = "new_items"
    conventions = ("recgraph", "replay")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "known"} | ({"trained"} if self.convention == "replay" else set()))

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.known is not None
        values = average(~ranked.known[:, :k], ranked, k)
        if self.convention == "replay":
            assert ranked.trained is not None
            return values.masked_fill(values.isnan(), 1.0).masked_fill(~ranked.trained, float("nan"))
        return values


class Novelty(Metric):
    """The mean over the first k of log2(users / the item's interactions): its self-information in bits.

    An item without interactions counts like one with a single one. (RecTools' ``MeanInvUserFreq``.) An empty list has
    no value.

    Under ``replay`` (``Surprisal``): divided by log2(users), and the sum is divided by k, also for short lists. (Its
    ``Novelty`` is :class:`~recgraph.evaluate.metrics.novelty.NewItems`.)
    """

    name = "novelty"
    conventions = ("recgraph", "rectools", "replay")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts", "n_users"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        assert ranked.facts.n_users is not None
        counts = ranked.facts.counts.clamp(min=1).double()
        most = counts.new_tensor(float(ranked.facts.n_users)).log2()
        bits = (most - counts.log2())[ranked.items[:, :k].clamp(min=0)]
        if self.convention == "replay":
            return (bits * (ranked.items[:, :k] >= 0)).sum(1) / most / k
        return average(bits, ranked, k)


class Serendipity(Metric):
    """The mean over the first k of max(p - q, 0) for hits and 0 for others.

    p = (N + 1 - rank) / N of the N items in the catalogue; q the same of the item's rank by popularity, equally popular
    items sharing a rank and the next one following without a gap; 0 for an item without interactions. (RecTools'.) A
    user without relevant items counts as 0, an empty list has no value.
    """

    name = "serendipity"
    conventions = ("recgraph", "rectools")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        assert ranked.facts.counts is not None
        counts, size = ranked.facts.counts, ranked.facts.n_items
        _, group = torch.unique(-counts, return_inverse=True)
        expected = ((size - group).double() / size).masked_fill(counts == 0, 0.0)
        own = (size + 1 - ranks(k, ranked.items)) / size
        surprise = (own - expected[ranked.items[:, :k].clamp(min=0)]).clamp(min=0)
        return average(surprise * ranked.hits[:, :k], ranked, k)


class Unexpectedness(Metric):
    """The share of the first k that is not among the k most popular items. An empty list has no value.

    Under ``replay``, against the same baseline, 1 - (shared items) / k: short lists look more unexpected, an empty one
    is 0.
    """

    name = "unexpectedness"
    conventions = ("recgraph", "replay")
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.items is not None
        assert ranked.facts is not None
        items = ranked.items[:, :k]
        popular = torch.zeros(ranked.facts.n_items, dtype=torch.bool)
        popular[ranked.facts.by_popularity[:k]] = True
        expected = popular[items.clamp(min=0)] & (items >= 0)
        if self.convention == "replay":
            return (1 - expected.sum(1).double() / k).masked_fill((items < 0).all(1), 0.0)
        return average(~expected, ranked, k)
