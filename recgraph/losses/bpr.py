"""BPR: the target should score above a drawn item."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from recgraph.losses._pairwise import OwnNegatives, OwnNegativesConfig


class BPRConfig(OwnNegativesConfig):
    pass


class BPR(OwnNegatives):
    """``mean_i mean_k softplus(s_ik - s_i,pos)``, k over the row's negatives.

    Source: Rendle et al., UAI 2009 (BPR-Opt, without its regulariser). Departure: a drawn item that is the
    target counts 0; other items of the same user may be drawn. Sequence models draw their own ``n_negatives``, 512 by
    default: give ``loss="bpr", n_negatives=1`` for one a target.
    """

    Config = BPRConfig

    def of_scores(self, positive: Tensor, negative: Tensor, keep_mask: Tensor, n_items: int) -> Tensor:
        losses = F.softplus(negative - positive[:, None]) * keep_mask
        return (losses.sum(1) / keep_mask.sum(1).clamp(min=1)).mean()
