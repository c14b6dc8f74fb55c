"""What is new to users, little known, surprising or different: diversity, new items, novelty, serendipity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nan

from recgraph.evaluate.metrics.base import Metric, RankedHits, average, of_items
from recgraph.evaluate.metrics.discounts import geometric, ranks

Distance = Literal["cosine", "hamming", "jaccard", "category pairs", "categories", "entropy"]


@dataclass(frozen=True)
class IntraListDiversity(Metric):
    """The mean distance 1 - cosine over the pairs of the first k, between item features or embeddings.

    A list of one item is 0, an empty one has no value. Under ``recpack`` users without relevant items are left out.

    Attributes:
        distance: ``cosine``, by default; ``hamming``: the number of features that differ, not divided by their number
            (RecTools); ``jaccard``: of 0/1 features, an empty list is 0 (RecPack). Others look at an item's category,
            its first feature that is not 0: ``category pairs``: 1 - (ordered pairs of the same category) / k(k - 1)
            (PyG); ``categories``: categories / k, also for short lists (RePlay). ``entropy`` is no distance: the
            entropy in bits of the features' sums over the list (LensKit).
        patience: with ``entropy``, weigh rank j by patience^(j-1) (LensKit's ``rank_biased_entropy``).
    """

    patience: float | None = None
    distance: Distance = "cosine"

    name = "intra_list_diversity"
    needs_truth = False
    needs = frozenset({"items", "features"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        known = ranked.catalogue().features
        assert known is not None
        items, features = ranked.first_items(k), known.double()
        _check_features(features, self.distance)
        mask = items >= 0
        # a few users at a time: a block holds the features of all their items
        width = max(items.shape[1], 1)
        block = max((1 << 22) // (width * max(features.shape[1], width)), 1)
        parts = [
            self._diversity(features[items[rows].clamp(min=0)] * mask[rows, :, None], mask[rows], k)
            for rows in (slice(start, start + block) for start in range(0, len(items), block))
        ]
        return torch.cat(parts) if parts else features.new_zeros(0)

    def _diversity(self, listed: Tensor, mask: Tensor, k: int) -> Tensor:
        """[U] float64 from features [U, k, F], 0 where the mask [U, k] is False."""
        if self.distance == "entropy":
            return _entropy(listed, mask, self.patience or 1.0)
        if self.distance in ("category pairs", "categories"):
            return _categories(listed, mask, k, self.distance == "category pairs")
        n = mask.sum(1)
        pairs = (n * (n - 1)).double()
        total = (_DISTANCES[self.distance](listed) * (mask[:, :, None] & mask[:, None, :])).sum((1, 2))
        return (total / pairs.clamp(min=1)).masked_fill(n == 0, 0.0 if self.distance == "jaccard" else nan)


def _check_features(features: Tensor, distance: Distance) -> None:
    """Refuse features, as embeddings are, that a distance takes for memberships.

    Raises:
        ValueError: one is below 0.
    """
    if distance not in ("entropy", "jaccard"):
        return
    below_mask = features < 0
    if bool(below_mask.any()):
        item, column = below_mask.nonzero()[0].tolist()
        raise ValueError(
            f"features: column {column} of item index {item} is {features[item, column]:g}; distance = {distance!r} "
            "reads what an item belongs to, in numbers of 0 and more: give such features, or take distance='cosine'"
        )


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


_DISTANCES = {"cosine": _cosine, "hamming": _hamming, "jaccard": _jaccard}


def _categories(listed: Tensor, mask: Tensor, k: int, pairs: bool) -> Tensor:
    category = (listed != 0).to(torch.int8).argmax(2)
    counts = torch.nn.functional.one_hot(category, listed.shape[2]).double() * mask[..., None]
    per_category = counts.sum(1)
    if pairs:
        same = (per_category * (per_category - 1)).sum(1)
        return 1 - same / (k * (k - 1))
    return ((per_category > 0).sum(1).double() / k).masked_fill(~mask.any(1), nan)


def _entropy(listed: Tensor, mask: Tensor, patience: float) -> Tensor:
    weights = geometric(patience, listed.shape[1], listed)
    sums = (listed * weights[:, None]).sum(1) + 1e-6
    shares = sums / sums.sum(1, keepdim=True)
    return -(shares * shares.log2()).sum(1).masked_fill(~mask.any(1), nan)


@dataclass(frozen=True)
class NewItems(Metric):
    """The share of the first k that the user has no interaction with in the training data.

    Attributes:
        trained_only: users without training data are left out, and an empty list is 1 (RePlay's ``Novelty``, which
            averages over all users of its training data and counts those without a list as 1: give them empty lists).
    """

    trained_only: bool = False

    name = "new_items"
    needs_truth = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "known"} | ({"trained"} if self.trained_only else set()))

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.known is not None
        values = average(~ranked.known[:, :k], ranked, k)
        if self.trained_only:
            assert ranked.trained is not None
            return values.masked_fill(values.isnan(), 1.0).masked_fill(~ranked.trained, nan)
        return values


@dataclass(frozen=True)
class Novelty(Metric):
    """The mean over the first k of log2(users / the item's interactions): its self-information in bits.

    An item without interactions counts like one with a single one. (RecTools' ``MeanInvUserFreq``.) An empty list has
    no value.

    Attributes:
        normalize: divide by log2(users), and the sum by k, also for short lists (RePlay's ``Surprisal``; its
            ``Novelty`` is :class:`~recgraph.evaluate.metrics.novelty.NewItems`).
    """

    normalize: bool = False

    name = "novelty"
    needs_truth = False
    needs = frozenset({"items", "counts", "n_users"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, n_users = ranked.popularity().clamp(min=1).double(), ranked.catalogue().n_users
        assert n_users is not None
        most = counts.new_tensor(float(n_users)).log2()
        bits = of_items(most - counts.log2(), ranked, k)
        if self.normalize:
            return (bits * (ranked.first_items(k) >= 0)).sum(1) / most / k
        return average(bits, ranked, k)


class Serendipity(Metric):
    """The mean over the first k of max(p - q, 0) for hits and 0 for others.

    p = (N + 1 - rank) / N of the N items in the catalogue; q the same of the item's rank by popularity, equally popular
    items sharing a rank and the next one following without a gap; 0 for an item without interactions. (RecTools'.) A
    user without relevant items counts as 0, an empty list has no value.
    """

    name = "serendipity"
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, size = ranked.popularity(), ranked.catalogue().n_items
        _, group = torch.unique(-counts, return_inverse=True)
        expected = ((size - group).double() / size).masked_fill(counts == 0, 0.0)
        own = (size + 1 - ranks(k, ranked.hits)) / size
        surprise = (own - of_items(expected, ranked, k)).clamp(min=0)
        return average(surprise * ranked.hits[:, :k], ranked, k)


@dataclass(frozen=True)
class Unexpectedness(Metric):
    """The share of the first k that is not among the k most popular items. An empty list has no value.

    Attributes:
        divide_by_k: 1 - (shared items) / k: short lists look more unexpected, an empty one is 0 (RePlay, against the
            same baseline).
    """

    divide_by_k: bool = False

    name = "unexpectedness"
    needs_truth = False
    needs = frozenset({"items", "counts"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        items = ranked.first_items(k)
        popular = torch.zeros(ranked.catalogue().n_items, dtype=torch.bool)
        popular[ranked.catalogue().by_popularity[:k]] = True
        expected = of_items(popular, ranked, k) & (items >= 0)
        if self.divide_by_k:
            return (1 - expected.sum(1).double() / k).masked_fill((items < 0).all(1), 0.0)
        return average(~expected, ranked, k)
