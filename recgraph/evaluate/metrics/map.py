"""Mean average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, Places, RankedHits, ranks

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
