"""Self mask: what is the anchor itself does not compete with it."""

from __future__ import annotations

import math

from torch import Tensor

from recgraph.contrast.weights.base import Pairs, Weight


class SelfMask(Weight):
    """Weight 0 where anchor and candidate have the same id, else 1.

    With the default ids this is the other view of the same row, which the objective puts back where it counts the
    positive; with users as ids, also the user's other samples in the batch.
    """

    def log_w(self, pairs: Pairs) -> Tensor:
        same = pairs.anchor_ids[:, None] == pairs.candidate_ids
        return pairs.anchors.new_zeros(same.shape).masked_fill_(same, -math.inf)
