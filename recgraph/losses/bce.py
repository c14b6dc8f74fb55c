"""BCE: each score is a yes-or-no question; with calibration, gBCE."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.losses._pairwise import OwnNegatives, OwnNegativesConfig


class BCEConfig(OwnNegativesConfig):
    calibration: Annotated[
        float,
        Field(ge=0, le=1, description="t of gBCE: 0 is plain BCE, 1 removes all of the overconfidence"),
        Search(low=0.0, high=1.0),
    ] = 0.0


class BCE(OwnNegatives):
    """``mean_i (b softplus(-s_i,pos) + sum_k softplus(s_ik)) / (1 + K)``, k over the row's K negatives.

    ``b = a (t (1 - 1/a) + 1/a)`` with the sampling rate ``a = K / (n_items - 1)`` and calibration ``t``:
    ``b = 1`` with ``K = 1`` is the binary cross-entropy of SASRec (Kang and McAuley, ICDM 2018), with a mean where it
    has a sum; a smaller ``b`` is gBCE. Sequence models draw their own ``n_negatives``, 512 by default: give
    ``loss="bce", n_negatives=1``.

    Source: Petrov and Macdonald, "gSASRec", RecSys 2023. Departure: a drawn item that is the
    target counts 0.
    """

    Config = BCEConfig

    def of_scores(self, positive: Tensor, negative: Tensor, keep_mask: Tensor, n_items: int) -> Tensor:
        rate = min(self.config.n_negatives / max(n_items - 1, 1), 1.0)
        t = self.config.calibration
        power = t * (rate - 1) + 1
        losses = power * F.softplus(-positive) + (F.softplus(negative) * keep_mask).sum(1)
        mean: Tensor = (losses / (1 + negative.shape[1])).mean()
        return mean
