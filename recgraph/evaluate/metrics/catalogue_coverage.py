"""Catalogue coverage: the share of the items that anyone is recommended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.metrics._listed import listed
from recgraph.evaluate.metrics.base import Aggregate, RankedHits


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
