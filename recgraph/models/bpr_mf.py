"""BPRMF."""

from __future__ import annotations

from torch import Tensor

from recgraph.models.base_collaborative import CollaborativeModel


class BPRMF(CollaborativeModel):
    """Matrix factorisation: a user's score of an item is the inner product of their vectors.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009). Departures: no item
    bias; Adam instead of plain SGD; the loss can be another than BPR.
    """

    def nodes(self) -> Tensor:
        return self.embedding.weight
