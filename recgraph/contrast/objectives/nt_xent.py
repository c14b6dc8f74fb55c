"""NT-Xent: both views stacked, every row against all the others."""

from __future__ import annotations

import torch

from recgraph.contrast.objectives.base import Objective, ObjectiveConfig, Outcome, Views
from recgraph.contrast.similarity import Similarity
from recgraph.contrast.weights.base import Weight


class NTXent(Objective):
    """``a`` and ``b`` stacked to 2B rows; C_i is all rows but i itself, the positive its partner in the other view.

    Source: Chen et al., ICML 2020 (SimCLR), equation 1; the mean is over the 2B rows. With inner products this is
    the loss of CL4SRec, DuoRec and MCLRec.
    """

    Config = ObjectiveConfig

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        n = views.a.shape[0]
        if views.a.shape != views.b.shape or views.positives is not None or views.temperatures is not None:
            raise ValueError(
                f"a {list(views.a.shape)} and b {list(views.b.shape)} must be of one shape, row i of the one the "
                "partner of row i of the other, without positives and temperatures of their own"
            )
        z, ids = torch.cat([views.a, views.b]), torch.cat([views.ids_a, views.ids_b])
        own = torch.arange(2 * n, device=z.device)
        stacked = Views(z, z, ids, ids, positives=own.roll(n))
        return self.one(stacked, similarity, weight, excluded=own)
