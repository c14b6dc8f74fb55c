"""F1: precision and recall in one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recgraph.evaluate.metrics.base import Metric, RankedHits


@dataclass(frozen=True)
class F1(Metric):
    """(1 + b^2) P R / (b^2 P + R) of precision and recall at k, which is (1 + b^2) hits / (b^2 relevant + k).

    Attributes:
        beta: the weight b of recall.
    """

    beta: float = 1.0

    name = "f1"
    conventions = ("recgraph", "rectools", "pyg", "ranx", "cornac")
    expects = True

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        square = self.beta**2
        return (1 + square) * ranked.hits[:, :k].sum(1).double() / (square * ranked.n_relevant + k)
