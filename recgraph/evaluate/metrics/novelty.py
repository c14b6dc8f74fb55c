"""Novelty: how little known the recommended items are."""

from __future__ import annotations

from torch import Tensor

from recgraph.evaluate.metrics._listed import average
from recgraph.evaluate.metrics.base import Metric, RankedHits


class Novelty(Metric):
    """The mean over the first k of log2(users / the item's interactions): its self-information in bits.

    An item without interactions counts like one with a single one. (RecTools' ``MeanInvUserFreq``.) An empty list has
    no value.

    Under ``replay`` (``Surprisal``): divided by log2(users), and the sum is divided by k, also for short lists. (Its
    ``Novelty`` is :class:`~recgraph.evaluate.metrics.new_items.NewItems`.)
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
