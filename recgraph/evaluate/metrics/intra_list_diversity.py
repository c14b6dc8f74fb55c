"""Intra-list diversity: how different the items of a list are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits, ranks


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
